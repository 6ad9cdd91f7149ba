"""The pictures that scenes of StoryDiffusion and VideoStudio start from, made by the story's own model.

Both methods draw pictures first and animate each by itself. CogVideoX draws a picture as a clip of one frame.
The embedded models draw single frames badly, so theirs is the first frame of a clip of their own length.
"""

# P pixel frames, F latent frames, C latent channels, H W height and width

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from m2d.backend import Backend
from m2d.families.source import ModelSource
from m2d.methods.methods import Keyframes, varied
from m2d.pipeline.planning import plan_for_model
from m2d.pipeline.scenes import GivenScene, ScenePipeline
from m2d.progress import Clock
from m2d.recipe.cast import find_mentions
from m2d.recipe.plan import ExistingFilm, RunPlan
from m2d.recipe.schema import Recipe, Scene

# Keeps the noise of keyframes apart from that of references and films, whose numbers are smaller.
_FIRST_NUMBER = 1000


class KeyframeMaker:
    """Draws the keyframes of stories with one model, which stays loaded."""

    def __init__(self, source: ModelSource, backend: Backend, *, device: str, clock: Clock) -> None:
        """Load nothing yet."""
        self._source = source
        self._scenes = ScenePipeline(source, backend, device=device, clock=clock, stays_loaded=True)

    def draw(self, kind: Keyframes, story: Recipe) -> list[np.ndarray]:
        """Return a picture for each scene, uint8 RGB HWC.

        Raises:
            RecipeError: The model cannot make such pictures.
            BackendError: It predicts values that are not finite.
        """
        num_frames = self._source.geometry.default_num_frames if self._source.is_puppet else 1
        scenes = tuple(
            scene.model_copy(update={"join": None, "frames": None, "image": None}) for scene in story.scenes
        )
        video = story.video.model_copy(update={"num_frames": num_frames})
        story = story.model_copy(update={"video": video, "scenes": scenes, "image": None})
        latents = self._consistent(story) if kind == "consistent" else self._from_references(story)
        decoder = self._scenes.decoder()
        self._scenes.release_transformer()
        return [decoder.decode(each_FCHW, scene=number)[0] for number, each_FCHW in enumerate(latents)]

    def _consistent(self, story: Recipe) -> list[Tensor]:
        """Make all keyframes jointly, their video tokens shared by sampling (StoryDiffusion, Section 3.1)."""
        story = varied(story, mask="isolated", attention="consistent")
        plan = self._plan(story.model_copy(update={"jointly": len(story.scenes)}))
        latents_FCHW = self._scenes.denoise([plan]).latents_FCHW
        return [latents_FCHW[number] for number in range(len(story.scenes))]

    def _from_references(self, story: Recipe) -> list[Tensor]:
        """Draw every actor and background, then each keyframe with its own ones as clean context."""
        wanted = [_references(scene, story) for scene in story.scenes]
        texts = list(dict.fromkeys(each for scene in wanted for each in scene))
        alone = varied(story, mask="isolated")
        plan = self._plan(alone.model_copy(update={"scenes": tuple(texts), "jointly": len(texts)}))
        known_FCHW = self._scenes.denoise([plan]).latents_FCHW
        keyframes = []
        for number, (scene, own) in enumerate(zip(story.scenes, wanted, strict=True)):
            places = [texts.index(each) for each in own]
            film = ExistingFilm(
                scenes=tuple(plan.scenes[place] for place in places),
                first_scene=_FIRST_NUMBER * (number + 1),
            )
            one = varied(story, mask="mask2dit")
            one = one.model_copy(update={"scenes": (scene,), "jointly": len(places) + 1})
            given = {
                at: GivenScene(latents_FCHW=known_FCHW[place].numpy()) for at, place in enumerate(places)
            }
            made = self._scenes.denoise([self._plan(one, film=film)], given=given)
            keyframes.append(made.latents_FCHW[len(places)])
        return keyframes

    def _plan(self, story: Recipe, *, film: ExistingFilm | None = None) -> RunPlan:
        return plan_for_model(story, self._source, film=film)


def _references(scene: Scene, story: Recipe) -> Sequence[Scene]:
    """Return what a scene shows, each as a scene of its own: its background, and every actor it names.

    A scene without either is its own reference.
    """
    setting = scene.setting or story.setting
    actors = dict.fromkeys(mention.name for mention in find_mentions(scene.prompt, story.cast))
    # An actor looks the same before every background, so the story's own serves for all.
    found = [Scene(setting=story.setting, prompt=f"{name} stands still.") for name in actors]
    return ([Scene(prompt=setting)] if setting else []) + found or [scene]
