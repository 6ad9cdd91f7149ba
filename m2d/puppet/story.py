"""Random stories of the puppet world: the contents of every scene, without pixels.

A story fixes the properties that its prompts name (setting, time, cast, actions) and those that no prompt
mentions (positions of tree and sun, the horizon, the actors' size and eyes). Scenes of a changing story have
different settings or times; the cast, its size and its eyes stay. `stage.py` draws.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from m2d.puppet.vocabulary import ACTIONS, COLOURS, EYES, HATS, SETTINGS, SHAPES, TIMES

TREE_X = (0.08, 0.92)
SUN_X = (0.12, 0.88)
HORIZON_Y = (0.50, 0.66)
ACTOR_SIZE = (0.85, 1.15)
# In a changing story: the probability that its second scene already differs from the first, and that a later
# scene is set somewhere new instead of where one of the earlier scenes is.
_CHANGES_AT_ONCE, _MOVES_ON = 0.75, 0.6


@dataclass(frozen=True, kw_only=True, slots=True)
class Actor:
    """One actor; every field is an index into the vocabulary's tuple of that name."""

    shape: int
    colour: int
    hat: int

    @property
    def description(self) -> str:
        """The description of a cast member, such as `round red body, wool cap`."""
        return f"{SHAPES[self.shape]} {COLOURS[self.colour]} body, {HATS[self.hat]}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Backdrop:
    """The setting of a scene and the unprompted properties; equal in all scenes of most stories.

    Attributes:
        setting: Index into SETTINGS; prompts name it and the time, and nothing else.
        time: Index into TIMES.
        tree_x: Centre of the tree (or cactus, palm, lamp post) as a fraction of the width.
        sun_x: Centre of sun or moon as a fraction of the width.
        horizon_y: Height of the horizon as a fraction of the height from the top.
        actor_size: Scale of all actors, 1 is the mean.
        eyes: Index into EYES.
    """

    setting: int
    time: int
    tree_x: float
    sun_x: float
    horizon_y: float
    actor_size: float
    eyes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """The contents of one scene.

    Attributes:
        actions: Per actor of the cast, an index into ACTIONS, or None when the actor is off stage.
        backdrop: The scene's own backdrop, or None for the story's.
    """

    actions: tuple[int | None, int | None]
    backdrop: Backdrop | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Story:
    """A complete story: a backdrop, a cast of two, several scenes."""

    backdrop: Backdrop
    cast: tuple[Actor, Actor]
    scenes: tuple[Scene, ...]

    def backdrop_of(self, scene: Scene) -> Backdrop:
        """Return the backdrop that the scene shows."""
        return self.backdrop if scene.backdrop is None else scene.backdrop


def story_generator(*, seed: int, index: int, purpose: str = "story") -> np.random.Generator:
    """Return the counter-based generator of story `index` of the collection `seed`."""
    digest = hashlib.sha256(f"m2d puppet {purpose} {seed} {index}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def sample_story(*, seed: int, index: int, num_scenes: int, changing: float = 0.0) -> Story:
    """Draw story `index` of the collection `seed`; the same arguments always give the same story.

    Args:
        changing: Probability that the story's scenes change place or time. It decides about nothing else:
            cast, actions and the first scene are the same whatever it is.
    """
    draw = story_generator(seed=seed, index=index)
    backdrop = Backdrop(
        setting=int(draw.integers(len(SETTINGS))),
        time=int(draw.integers(len(TIMES))),
        tree_x=float(draw.uniform(*TREE_X)),
        sun_x=float(draw.uniform(*SUN_X)),
        horizon_y=float(draw.uniform(*HORIZON_Y)),
        actor_size=float(draw.uniform(*ACTOR_SIZE)),
        eyes=int(draw.integers(len(EYES))),
    )
    cast = (_sample_actor(draw), _sample_actor(draw))
    scenes = [_sample_scene(draw) for _ in range(num_scenes)]
    changes = story_generator(seed=seed, index=index, purpose="changes")
    if changes.random() < changing:
        backdrops = _changing_backdrops(backdrop, num_scenes, changes)
        scenes = [replace(scene, backdrop=own) for scene, own in zip(scenes, backdrops, strict=True)]
    return Story(backdrop=backdrop, cast=cast, scenes=tuple(scenes))


def _changing_backdrops(first: Backdrop, num_scenes: int, draw: np.random.Generator) -> list[Backdrop]:
    """Return one backdrop per scene, starting with `first`.

    Tree and horizon belong to a place, the sun to a place at a time: where a story returns to, all of them
    stand where they stood before.
    """
    ground = {first.setting: (first.tree_x, first.horizon_y)}
    sun = {(first.setting, first.time): first.sun_x}
    first_change = 1 if draw.random() < _CHANGES_AT_ONCE else 2
    backdrops = [first]
    for number in range(1, num_scenes):
        if number < first_change:
            setting, time = first.setting, first.time
        elif number == first_change or draw.random() < _MOVES_ON:
            setting, time = _elsewhere(backdrops[-1], draw)
        else:
            again = backdrops[int(draw.integers(number))]
            setting, time = again.setting, again.time
        if setting not in ground:
            ground[setting] = (float(draw.uniform(*TREE_X)), float(draw.uniform(*HORIZON_Y)))
        if (setting, time) not in sun:
            sun[setting, time] = float(draw.uniform(*SUN_X))
        tree_x, horizon_y = ground[setting]
        backdrops.append(
            replace(
                first,
                setting=setting,
                time=time,
                tree_x=tree_x,
                sun_x=sun[setting, time],
                horizon_y=horizon_y,
            )
        )
    return backdrops


def _elsewhere(now: Backdrop, draw: np.random.Generator) -> tuple[int, int]:
    """Draw another place, another time or both, each as often."""
    kind = int(draw.integers(3))
    setting, time = now.setting, now.time
    if kind != 0:
        setting = (setting + 1 + int(draw.integers(len(SETTINGS) - 1))) % len(SETTINGS)
    if kind != 1:
        time = (time + 1 + int(draw.integers(len(TIMES) - 1))) % len(TIMES)
    return setting, time


def _sample_actor(draw: np.random.Generator) -> Actor:
    return Actor(
        shape=int(draw.integers(len(SHAPES))),
        colour=int(draw.integers(len(COLOURS))),
        hat=int(draw.integers(len(HATS))),
    )


def _sample_scene(draw: np.random.Generator) -> Scene:
    first, second = (int(draw.integers(len(ACTIONS))) for _ in range(2))
    on_stage = int(draw.integers(3))
    return Scene(actions=(first if on_stage != 1 else None, second if on_stage != 0 else None))
