"""Random stories of the puppet world: what every scene shows, before any pixel is drawn.

A story fixes what its prompts name (setting, time, cast, actions) and what no prompt ever mentions (where
tree and sun stand, the horizon, the actors' size and eyes). Owns the sampling; `stage.py` draws.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from m2d.puppet.vocabulary import ACTIONS, COLOURS, EYES, HATS, SETTINGS, SHAPES, TIMES

TREE_X = (0.08, 0.92)
SUN_X = (0.12, 0.88)
HORIZON_Y = (0.50, 0.66)
ACTOR_SIZE = (0.85, 1.15)


@dataclass(frozen=True, kw_only=True, slots=True)
class Actor:
    """One cut-out actor; every field is an index into the vocabulary's tuple of that name."""

    shape: int
    colour: int
    hat: int

    @property
    def description(self) -> str:
        """The words a cast uses, such as `round red body, wool cap`."""
        return f"{SHAPES[self.shape]} {COLOURS[self.colour]} body, {HATS[self.hat]}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Backdrop:
    """What stays equal in all scenes of a story.

    Attributes:
        setting: Index into SETTINGS, named by the prompts.
        time: Index into TIMES, named by the prompts.
        tree_x: Centre of the tree (or cactus, palm, lamp post) as a fraction of the width; never in a prompt.
        sun_x: Centre of sun or moon as a fraction of the width; never in a prompt.
        horizon_y: Height of the horizon as a fraction of the height from the top; never in a prompt.
        actor_size: Scale of all actors, 1 is the mean; never in a prompt.
        eyes: Index into EYES; never in a prompt.
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
    """What one scene shows.

    Attributes:
        actions: Per actor of the cast an index into ACTIONS, or None when the actor is off stage.
    """

    actions: tuple[int | None, int | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Story:
    """A whole story: one backdrop, a cast of two, several scenes."""

    backdrop: Backdrop
    cast: tuple[Actor, Actor]
    scenes: tuple[Scene, ...]


def story_generator(*, seed: int, index: int) -> np.random.Generator:
    """Return the counter-based generator of story `index` of the collection `seed`."""
    digest = hashlib.sha256(f"m2d puppet story {seed} {index}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def sample_story(*, seed: int, index: int, num_scenes: int) -> Story:
    """Draw story `index` of the collection `seed`; the same arguments always give the same story."""
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
    return Story(backdrop=backdrop, cast=cast, scenes=tuple(_sample_scene(draw) for _ in range(num_scenes)))


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
