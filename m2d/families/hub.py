"""Models of the Hugging Face hub: those in its cache, and the download of others. Imports no torch.

`huggingface_hub` follows HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2d import disk
from m2d.errors import EXIT_UNAVAILABLE, CheckpointError, M2DError, OutputError, first_line
from m2d.model.components import INDEX_FILE
from m2d.progress import Reporter, StageProgress
from m2d.recipe.model_choice import PARTS

_MAIN = "main"
# A path that begins with a dot, as `./mine`, is of this disk.
_HUB_ID = re.compile(r"(?P<repository>(?!\.)[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
# A file of each layout that a repository may have.
_MARKS = (
    INDEX_FILE,
    "config.json",
    *(f"{part}/config.json" for part in PARTS),
)
# Config files and the like, which the listing may not count.
_SPARE_BYTES = 64 << 20


class HubUnavailable(M2DError):
    """The hub does not answer, or must not be asked."""

    exit_code = EXIT_UNAVAILABLE


@dataclass(frozen=True, kw_only=True, slots=True)
class HubModel:
    """A repository of a hub at a revision: a branch, tag or commit."""

    repository: str
    revision: str = _MAIN

    def __str__(self) -> str:
        return self.repository if self.revision == _MAIN else f"{self.repository}@{self.revision}"


def hub_model(text: str, revision: str | None = None) -> HubModel | None:
    """Read `zai-org/CogVideoX-5b`, with `@` and a revision if it is not `main`; None for any other text.

    Raises:
        CheckpointError: Two revisions are given.
    """
    found = _HUB_ID.fullmatch(text)
    if found is None:
        return None
    if revision and found["revision"]:
        raise CheckpointError(f"revision {revision!r}: {text!r} names one, too; give one")
    return HubModel(repository=found["repository"], revision=revision or found["revision"] or _MAIN)


def cached_snapshot(model: HubModel) -> Path | None:
    """Return the folder of a model in Hugging Face's cache, complete or not; None if it is not there."""
    # Takes a third of a second, which folders need not spend.
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        for mark in _MARKS:
            found = try_to_load_from_cache(model.repository, mark, revision=model.revision)
            if isinstance(found, str):
                return Path(found).parents[mark.count("/")]
    except HFValidationError:
        pass
    return None


def download(
    model: HubModel, choose: Callable[[Mapping[str, int]], Iterable[str]], reporter: Reporter
) -> Path:
    """Download files of a model into Hugging Face's cache; what an earlier download left is used.

    Args:
        choose: Chooses from all files with their sizes in bytes.
        reporter: Receives the size before the download begins, and the progress.

    Returns:
        The snapshot's folder.

    Raises:
        CheckpointError: The hub knows no such model or revision, or access has to be asked for.
        HubUnavailable: The hub does not answer, or HF_HUB_OFFLINE is set.
        OutputError: The disk is too full, or refused.
    """
    from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache

    with _hub_errors(model):
        info = HfApi().model_info(model.repository, revision=model.revision, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    files = sorted(choose(sizes))
    absent = [
        name
        for name in files
        if not isinstance(try_to_load_from_cache(model.repository, name, revision=info.sha), str)
    ]
    total = sum(sizes[name] for name in absent)
    if absent:
        _check_space(Path(constants.HF_HUB_CACHE), total, model)
        size = f"{_gigabytes(total)} in {len(absent)} files"
        reporter.note(f"{model}: downloading {size} from {constants.ENDPOINT}")
    folder = None
    with reporter.stage(f"download {model.repository}", total=total) as progress:
        for name in files:
            with _hub_errors(model):
                # The revision as given, so that the cache knows which commit it is.
                path = Path(
                    hf_hub_download(
                        model.repository, name, revision=model.revision, tqdm_class=_reporting(progress)
                    )
                )
            if folder not in (None, path.parents[name.count("/")]):
                raise HubUnavailable(f"{model}: changed on the hub during the download; download it again")
            folder = path.parents[name.count("/")]
    if folder is None:
        raise CheckpointError(f"{model}: the repository has none of a model's files")
    return folder


@contextmanager
def _hub_errors(model: HubModel) -> Iterator[None]:
    """Turn what huggingface_hub raises into one line with the cause."""
    from huggingface_hub import constants, errors
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # Of the HTTP client that this version of huggingface_hub uses.
    http_error = vars(errors)["HTTPError"]
    hub = constants.ENDPOINT
    try:
        yield
    except GatedRepoError as error:
        raise CheckpointError(
            f"model {model}: {hub} gives it only to those who have accepted its terms; accept them on "
            f"{hub}/{model.repository} and set HF_TOKEN to a token of that account"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"model {model}: {hub} has no revision {model.revision!r} of it") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"model {model}: there is no such folder, and {hub} has no such model; a private one needs "
            "HF_TOKEN"
        ) from error
    except HFValidationError as error:
        raise CheckpointError(f"model {model}: there is no such folder, and no hub has such names") from error
    except OfflineModeIsEnabled as error:
        raise HubUnavailable(
            f"model {model}: not complete in {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE is set"
        ) from error
    except HfHubHTTPError as error:
        raise HubUnavailable(f"model {model}: {hub} answers: {first_line(error)}") from error
    except (LocalEntryNotFoundError, http_error) as error:
        cause = first_line(error.__cause__ or error)
        raise HubUnavailable(f"model {model}: {hub} cannot be reached: {cause}") from error
    except OSError as error:
        raise disk.kind_of(error)(
            f"{constants.HF_HUB_CACHE}: {error.strerror or first_line(error)}"
        ) from error


def _check_space(cache: Path, needed_bytes: int, model: HubModel) -> None:
    there = next(path for path in (cache, *cache.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < needed_bytes + _SPARE_BYTES:
        raise OutputError(
            f"model {model}: {_gigabytes(needed_bytes)} to download, but {cache} has {_gigabytes(free)} "
            "free; free some space, or set HF_HOME to a folder on another disk"
        )


def _gigabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e8 else f"{size_bytes / 1e6:.1f} MB"


def _reporting(progress: StageProgress) -> type[Any]:
    """Return the class of progress bars that report to a stage instead of drawing."""
    from tqdm.auto import tqdm  # type: ignore[import-untyped]  # has no stubs

    class Bar(tqdm):  # type: ignore[misc]  # the base has no types
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs | {"disable": True})
            self.update(kwargs.get("initial") or 0)

        def update(self, n: float | None = 1) -> None:
            progress.advance(int(n or 0))

    return Bar
