"""The runs of StoryDiffusion and VideoStudio: keyframes first, then each is animated by itself.

All runs are the story's own model's. CogVideoX draws a keyframe as a clip of one frame; the embedded models
draw single frames badly, so theirs are clips of their own length. A text-to-video model animates a keyframe
that is its clean context: the reference latent that VideoStudio prepends in time, through the conditional
mask. Tensors and files are made elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from m2d.families.source import ModelSource
from m2d.layout import SceneLayout
from m2d.methods.methods import Keyframes, varied
from m2d.pipeline.planning import plan_for_model
from m2d.pipeline.scenes import ScenePipeline
from m2d.recipe.cast import find_mentions
from m2d.recipe.plan import ExistingFilm, RunPlan, WindowPlan
from m2d.recipe.schema import Recipe, Scene
from m2d.windows import Window


def keyframe_plans(kind: Keyframes, story: Recipe, source: ModelSource) -> tuple[RunPlan, ...]:
    """Plan the runs up to the keyframes, which are the scenes of the last one.

    `consistent` makes all jointly, their video tokens shared by sampling (StoryDiffusion, Section 3.1).
    `references` first makes a picture of every actor and background; each keyframe has those of its scene as
    clean context (VideoStudio, Section 3.2 and 3.3).

    Raises:
        RecipeError: The model cannot make such pictures.
    """
    num_frames = source.geometry.default_num_frames if source.is_puppet else 1
    scenes = tuple(
        scene.model_copy(update={"join": None, "frames": None, "image": None}) for scene in story.scenes
    )
    video = story.video.model_copy(update={"num_frames": num_frames})
    story = story.model_copy(update={"video": video, "scenes": scenes, "image": None})
    if kind == "consistent":
        story = varied(story, mask="isolated", attention="consistent")
        return (plan_for_model(story.model_copy(update={"jointly": len(scenes)}), source),)
    wanted = [_references(scene, story) for scene in scenes]
    texts = list(dict.fromkeys(each for scene in wanted for each in scene))
    alone = varied(story, mask="isolated").model_copy(update={"scenes": tuple(texts), "jointly": len(texts)})
    references = plan_for_model(alone, source)
    own = [tuple(sorted(texts.index(each) for each in scene)) for scene in wanted]
    return references, _continued(story, references, own)


def animated_plans(kind: Keyframes, story: Recipe, source: ModelSource) -> tuple[RunPlan, ...]:
    """Plan all runs of a text-to-video model; the scenes of the last one are the film."""
    plans = keyframe_plans(kind, story, source)
    scenes = tuple(scene.model_copy(update={"join": None}) for scene in story.scenes)
    return *plans, _continued(
        story.model_copy(update={"scenes": scenes}), plans[-1], [(number,) for number in plans[-1].targets]
    )


def draw_keyframes(plans: Sequence[RunPlan], pipeline: ScenePipeline) -> list[np.ndarray]:
    """Run `keyframe_plans`, and return the first frame of each keyframe, uint8 RGB HWC."""
    latents_FCHW = pipeline.denoise(plans).latents_FCHW
    decoder = pipeline.decoder()
    pipeline.release_transformer()
    return [decoder.decode(latents_FCHW[number], scene=number)[0] for number in plans[-1].targets]


def _continued(story: Recipe, before: RunPlan, context: Sequence[tuple[int, ...]]) -> RunPlan:
    """Plan scenes after those of another run, each alone with some of them as clean context."""
    source = before.source
    story = varied(story, mask="mask2dit")
    plan = plan_for_model(story, source, film=ExistingFilm(scenes=before.scenes))
    windows = []
    for number, own in zip(plan.targets, context, strict=True):
        window = Window(scenes=(*own, number), targets=(number,))
        layout = SceneLayout.build(
            story.mask,
            text_tokens=[source.geometry.max_text_tokens] * len(window.scenes),
            latent_frames=[plan.scenes[scene].geometry.num_latent_frames for scene in window.scenes],
            tokens_per_frame=plan.scene_geometry.tokens_per_frame,
            frames_per_token=source.geometry.temporal_patch_size,
        )
        windows.append(WindowPlan(window=window, layout=layout))
    return replace(plan, windows=tuple(windows))


def _references(scene: Scene, story: Recipe) -> Sequence[Scene]:
    """Return what a scene shows, each as a scene of its own: its background, and every actor it names.

    A scene without either is its own reference.
    """
    setting = scene.setting or story.setting
    actors = sorted({mention.name for mention in find_mentions(scene.prompt, story.cast)})
    # An actor looks the same before every background, so the story's own serves for all.
    found = [Scene(setting=story.setting, prompt=f"{name} stands still.") for name in actors]
    return ([Scene(prompt=setting)] if setting else []) + found or [scene]
