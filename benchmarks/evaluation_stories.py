"""Write the 50 puppet stories of `recipes/evaluation/puppet-50`, in the structure of the paper's Figure 5.

Run: `python -m benchmarks.evaluation_stories`. Every story has three scenes; every other one changes place or
time. No training recipe draws from their collection.
"""

from __future__ import annotations

import sys
from pathlib import Path

from m2d.puppet.captions import plain_caption, setting_text
from m2d.puppet.story import Story, sample_story
from m2d.recipe.cast import shorten_prompt
from m2d.recipe.schema import Recipe, Sampling, Scene, Video
from m2d.recipe.writer import to_yaml

FOLDER = Path(__file__).parents[1] / "recipes" / "evaluation" / "puppet-50"
NUM_STORIES = 50
SEED = 783
_HEADER = """\
Story {number} of {count} for the evaluation of puppet models; written by benchmarks/evaluation_stories.py.
Makes: {name}.mp4, three scenes.
Needs: only m2d.
Run:   m2d generate recipes/evaluation/puppet-50 --out films"""


def recipe_of(story: Story, *, number: int) -> Recipe:
    """Return the recipe of a story; scenes in the story's own place share its setting."""
    cast = {f"Actor{slot + 1}": actor.description for slot, actor in enumerate(story.cast)}
    scenes = []
    for scene in story.scenes:
        setting = setting_text(story.backdrop_of(scene))
        actions = plain_caption(story, scene).partition(". ")[2]
        own = None if setting == setting_text(story.backdrop) else setting
        scenes.append(Scene(setting=own, prompt=shorten_prompt(actions, cast)))
    return Recipe(
        title=f"Puppet story {number:02d}",
        cast=cast,
        setting=setting_text(story.backdrop),
        scenes=tuple(scenes),
        sampling=Sampling(seed=number),
        video=Video(fps=8),
    )


def texts() -> dict[str, str]:
    """Return the text of every file by its name."""
    found = {}
    for number in range(1, NUM_STORIES + 1):
        story = sample_story(seed=SEED, index=number - 1, num_scenes=3, changing=float(number % 2 == 0))
        name = f"puppet-story-{number:02d}"
        header = _HEADER.format(number=number, count=NUM_STORIES, name=name)
        found[f"{name}.yaml"] = to_yaml(recipe_of(story, number=number), header=header)
    return found


def main() -> int:
    """Write the files."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in texts().items():
        (FOLDER / name).write_text(text, "ascii")
    sys.stdout.write(f"{FOLDER}: {NUM_STORIES} stories\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
