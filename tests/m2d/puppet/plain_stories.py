"""One plain story that every puppet test starts from and changes in a single place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from m2d.puppet.render import Clip
from m2d.puppet.story import Actor, Backdrop, Scene, Story
from m2d.puppet.vocabulary import ACTIONS, COLOURS, HATS, SETTINGS, SHAPES, TIMES

BACKDROP = Backdrop(
    setting=SETTINGS.index("park"),
    time=TIMES.index("noon"),
    tree_x=0.5,
    sun_x=0.2,
    horizon_y=0.58,
    actor_size=1.0,
    eyes=0,
)
CAST = (
    Actor(shape=SHAPES.index("round"), colour=COLOURS.index("red"), hat=HATS.index("wool cap")),
    Actor(shape=SHAPES.index("square"), colour=COLOURS.index("blue"), hat=HATS.index("no hat")),
)


def changing_clips() -> list[Clip]:
    """A story in a park at noon, on a beach at night and in the park again."""
    beach = replace(
        BACKDROP, setting=SETTINGS.index("beach"), time=TIMES.index("night"), tree_x=0.8, sun_x=0.7
    )
    actions = (ACTIONS.index("waves"), None)
    scenes = tuple(Scene(actions=actions, backdrop=backdrop) for backdrop in (None, beach, BACKDROP))
    story = Story(backdrop=BACKDROP, cast=CAST, scenes=scenes)
    return [Clip(story, scene) for scene in scenes]


def plain_clip(
    first: str | None = "stands still",
    second: str | None = None,
    *,
    cast: tuple[Actor, Actor] = CAST,
    **backdrop: Any,
) -> Clip:
    """A scene: Actor1 does `first`, Actor2 `second` (None: off stage), before a changed backdrop."""
    actions = tuple(None if name is None else ACTIONS.index(name) for name in (first, second))
    scene = Scene(actions=actions)  # type: ignore[arg-type]  # a tuple of two
    return Clip(Story(backdrop=replace(BACKDROP, **backdrop), cast=cast, scenes=(scene,)), scene)
