"""Init: write new recipes, from a commented template or from stories that other systems wrote."""

from __future__ import annotations

from pathlib import Path

from m2d.errors import InputError
from m2d.files import check_writable, write_bytes
from m2d.recipe.fields import default_output
from m2d.recipe.schema import Recipe
from m2d.recipe.story_import import import_stories
from m2d.recipe.template import story_template
from m2d.recipe.writer import to_yaml
from m2d.video.printable import counted, printable

RECIPE_SUFFIXES = (".yaml", ".yml")


def write_template(path: Path, *, title: str, force: bool) -> Path:
    """Write a commented recipe that runs as it is; `path` ends in .yaml or .yml."""
    if path.suffix.lower() not in RECIPE_SUFFIXES:
        raise InputError(f"{str(path)!r} does not end in .yaml; give a recipe's name such as story.yaml")
    text = story_template(title=title, file_name=printable(path.name))
    write_bytes(path, text.encode("utf-8"), force=force)
    return path


def write_imported(source: Path, target: Path, *, force: bool) -> list[Path]:
    """Write one recipe per story of `source`.

    Args:
        source: Stories in a layout of `m2d.recipe.story_import`.
        target: A recipe file if there is one story; otherwise the folder of the recipes.
        force: Whether existing recipes are replaced.

    Returns:
        The recipes in the order of the stories.

    Raises:
        RecipeError: `source` cannot be read or has another form.
        InputError: `target` is one file, but there are several stories.
        OutputError: A recipe exists and `force` is not set, or it cannot be written; no recipe was written.
    """
    imported = import_stories(source)
    stories = [story.recipe for story in imported]
    if target.suffix.lower() in RECIPE_SUFFIXES and not target.is_dir():
        if len(stories) > 1:
            raise InputError(
                f"{target}: one file, but {source.name} holds {len(stories)} stories; give a folder"
            )
        paths = [target]
    else:
        paths = [target / _file_name(story) for story in stories]
    for path in paths:
        check_writable(path, force=force)
    for path, each in zip(paths, imported, strict=True):
        story = each.recipe
        length = counted(len(story.scenes), "scene")
        lines = [f"{story.title}, a story of {length} from {source.name} ({each.layout})."]
        if each.dropped:
            lines.append(f"Not taken over: {', '.join(each.dropped)}.")
        text = to_yaml(story, header="\n".join([*lines, f"m2d generate {path.name}"]))
        write_bytes(path, text.encode("utf-8"), force=force)
    return paths


def _file_name(story: Recipe) -> str:
    return Path(story.output or default_output(story.title)).with_suffix(".yaml").name
