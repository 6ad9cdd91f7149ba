"""An opened model folder, and where its parts come from.

Parts from several places are a folder of links in m2d's cache; errors about it name the user's own files, and
it is removed when it is refused. Imports no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from m2d import disk
from m2d.errors import CheckpointError, OutputError
from m2d.files import part_name
from m2d.folders import make_folder, remove_tree, removed_on_error
from m2d.model.components import COMPONENTS
from m2d.model.folder import linked_models
from m2d.model.settings import SETTINGS_FILE


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenedFolder:
    """A model folder.

    Attributes:
        name: The model as the user named it.
        links: Name of each file to the file itself; empty for a folder that holds its own files.
        places: Component to the folder, or the file of weights, that it comes from, where there are links.
        fields: Components that fields of their own name, such as `vae`.
        is_new: Whether the links were made when it was opened.
    """

    path: Path
    name: str = ""
    links: Mapping[str, Path] = field(default_factory=dict)
    places: Mapping[str, Path] = field(default_factory=dict)
    fields: Set[str] = frozenset()
    is_new: bool = False

    @contextmanager
    def naming_places(self) -> Iterator[None]:
        """Let a CheckpointError name the user's files and fields in place of links, and remove new links."""
        try:
            yield
        except CheckpointError as error:
            if not self.links:
                raise
            if self.is_new:
                # The first error is the one to report.
                with suppress(OutputError):
                    remove_tree(self.path)
            lines = str(error).splitlines()
            raise CheckpointError(
                "\n".join(map(self._with_places, lines)),
                fields=[self._field(line) for line in lines],
                remedy=error.remedy,
            ) from error

    def _with_places(self, line: str) -> str:
        """Return a line of an error with the places of links."""
        for name in sorted(self.links, key=len, reverse=True):
            line = line.replace(str(self.path / name), str(self.links[name]))
        for name, place in self.places.items():
            line = line.replace(str(self.path / name), str(place))
        return line.replace(str(self.path), self.name)

    def _field(self, line: str) -> str:
        """Return the field whose place a line of an error is about."""
        named = {name: line.find(str(self.path / name)) for name in COMPONENTS}
        named["transformer"] = max(named["transformer"], line.find(str(self.path / SETTINGS_FILE)))
        found = sorted((position, name) for name, position in named.items() if position >= 0)
        return next((name for _, name in found if name in self.fields), "model")


@contextmanager
def naming_field(name: str) -> Iterator[None]:
    """Let every line of a CheckpointError name the field `name`."""
    try:
        yield
    except CheckpointError as error:
        lines = str(error).splitlines()
        raise CheckpointError("\n".join(lines), fields=[name] * len(lines), remedy=error.remedy) from error


def linked_folder(
    links: Mapping[str, Path], *, name: str, places: Mapping[str, Path], fields: Set[str]
) -> OpenedFolder:
    """Return a folder in m2d's cache in which every file is a link, making it if it is not there.

    Raises:
        OutputError: The disk refused.
    """
    targets = {target: path.resolve() for target, path in sorted(links.items())}
    text = "\n".join(f"{target} {path}" for target, path in targets.items())
    label = Path(name.removeprefix("builtin:")).name
    folder = linked_models() / f"{label}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    is_new = not folder.is_dir()
    if is_new:
        make_folder(folder.parent)
        _write_links(folder, targets)
    return OpenedFolder(path=folder, name=name, links=links, places=places, fields=fields, is_new=is_new)


def _write_links(folder: Path, targets: Mapping[str, Path]) -> None:
    part = part_name(folder)
    try:
        with removed_on_error(part), disk.output_errors(folder):
            for name, target in targets.items():
                (part / name).parent.mkdir(exist_ok=True)
                (part / name).symlink_to(target)
            part.rename(folder)
    except OutputError:
        # Another process may have been faster.
        if not folder.is_dir():
            raise
