"""Downloads the package of a metric network from a Python package index."""

from __future__ import annotations

import html
import os
import re
import urllib.error
import urllib.request
from urllib.parse import urljoin

from m2d.errors import M2DError
from m2d.evaluation.networks import Network
from m2d.progress import StageProgress

INDEX_VARIABLES = ("M2D_PACKAGE_INDEX", "PIP_INDEX_URL")
_DEFAULT_INDEX = "https://pypi.org/simple"
_LINK = re.compile(r"""href=["']([^"']+)["']""")
_TIMEOUT_S = 60
_CHUNK_BYTES = 1 << 20
_LARGEST_PAGE_BYTES = 8 << 20


class DownloadFailed(M2DError):
    """The package could not be downloaded."""


def download_package(network: Network, progress: StageProgress) -> bytes:
    """Return the bytes of a network's package; `store_network` verifies them.

    The index is that of `M2D_PACKAGE_INDEX` or of pip's `PIP_INDEX_URL`, a page with links per package.

    Raises:
        DownloadFailed: No network, or the index does not have the package.
    """
    chosen = next((os.environ[name] for name in INDEX_VARIABLES if os.environ.get(name)), _DEFAULT_INDEX)
    page = f"{chosen.rstrip('/')}/{network.package}/"
    try:
        with urllib.request.urlopen(_checked(page), timeout=_TIMEOUT_S) as response:
            text = response.read(_LARGEST_PAGE_BYTES).decode("utf-8", "replace")
            found = [urljoin(response.url, html.unescape(link)) for link in _LINK.findall(text)]
        links = [link for link in found if link.partition("#")[0].endswith(f"/{network.archive}")]
        if not links:
            raise DownloadFailed(f"{page}: does not list {network.archive}")
        return _read(links[0].partition("#")[0], network, progress)
    except (OSError, urllib.error.URLError) as error:
        raise DownloadFailed(f"{page}: {network.archive} cannot be downloaded: {error}") from error


def _read(url: str, network: Network, progress: StageProgress) -> bytes:
    data = bytearray()
    with urllib.request.urlopen(_checked(url), timeout=_TIMEOUT_S) as response:
        while chunk := response.read(_CHUNK_BYTES):
            data += chunk
            progress.advance(len(chunk))
            if len(data) > network.size_bytes:
                raise DownloadFailed(
                    f"{url}: is larger than the {network.size_bytes} bytes of {network.archive}"
                )
    return bytes(data)


def _checked(url: str) -> str:
    # Other schemes, such as file:, would read local files.
    if not url.startswith(("https://", "http://")):
        raise DownloadFailed(f"{url}: the address of a package index begins with https:// or http://")
    return url
