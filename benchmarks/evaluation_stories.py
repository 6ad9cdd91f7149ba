"""Write the 50 puppet stories of `recipes/evaluation/puppet-50`, in the structure of the paper's Figure 5.

Run: `python -m benchmarks.evaluation_stories`. Every story has three scenes; every other one changes place or
time. No training recipe draws from their collection. With `--films FOLDER`, draw the stories instead: the
reference of `m2d compare` on them.
"""

from __future__ import annotations

import sys
from pathlib import Path

from m2d.model.pixels import to_pixels
from m2d.puppet.captions import plain_caption, setting_text
from m2d.puppet.render import render_clips
from m2d.puppet.story import Story, sample_story
from m2d.puppet.story_scores import story_clips
from m2d.recipe.cast import shorten_prompt
from m2d.recipe.schema import Recipe, Sampling, Scene, Video
from m2d.recipe.writer import to_yaml
from m2d.video.write import write_film

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


def _story(number: int) -> Story:
    return sample_story(seed=SEED, index=number - 1, num_scenes=3, changing=float(number % 2 == 0))


def texts() -> dict[str, str]:
    """Return the text of every file by its name."""
    found = {}
    for number in range(1, NUM_STORIES + 1):
        story = _story(number)
        name = f"puppet-story-{number:02d}"
        header = _HEADER.format(number=number, count=NUM_STORIES, name=name)
        found[f"{name}.yaml"] = to_yaml(recipe_of(story, number=number), header=header)
    return found


def draw_films(folder: Path, *, num_stories: int) -> None:
    """Draw the first stories as videos of three scenes."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, num_stories + 1):
        story = _story(number)
        scenes = render_clips(story_clips([story]), num_frames=9, height=64, width=64)
        write_film(
            folder / f"puppet-story-{number:02d}.mp4",
            [to_pixels(2 * frames_PCHW - 1) for frames_PCHW in scenes],
            fps=8,
            upscale=1,
            title=f"Puppet story {number:02d}",
            scene_prompts=[plain_caption(story, scene) for scene in story.scenes],
            provenance=None,
            force=True,
        )


def main() -> int:
    """Write the files, or draw the films."""
    if sys.argv[1:2] == ["--films"]:
        draw_films(Path(sys.argv[2]), num_stories=int(sys.argv[3]) if sys.argv[3:] else NUM_STORIES)
        return 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in texts().items():
        (FOLDER / name).write_text(text, "ascii")
    sys.stdout.write(f"{FOLDER}: {NUM_STORIES} stories\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
