"""An actor's look and motion: body, legs, arms, eyes and hat as cut-outs that perform one action per scene.

Every action runs about one cycle per scene, each pose held for two frames. Positions are fractions of the
picture's height; an actor's feet are at its own y = 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from m2d.puppet.raster import CutOut
from m2d.puppet.story import Actor
from m2d.puppet.vocabulary import ACTIONS, EYES, HATS, SHAPES

MARKS_X = (0.29, 0.71)
FLOOR_Y = 0.92
WALK = 0.09
JUMP = 0.17
MAX_CUTOUTS = 15

Rgb = tuple[float, float, float]

BODY_RGB: tuple[Rgb, ...] = (
    (0.88, 0.20, 0.18),
    (0.98, 0.80, 0.16),
    (0.24, 0.66, 0.27),
    (0.16, 0.42, 0.88),
    (0.60, 0.28, 0.74),
    (0.97, 0.96, 0.94),
)
# Hats that no caption names and no embedded model was trained on, for fine-tuning.
NEW_HATS = ("crown",)
CROWN_RGB: Rgb = (0.88, 0.20, 0.18)
_DARK: Rgb = (0.12, 0.10, 0.14)
_CREAM: Rgb = (1.0, 0.98, 0.92)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Body:
    half_width: float
    half_height: float
    radius: float
    taper: float = 0.0


_BODIES = {
    "round": _Body(half_width=0.112, half_height=0.112, radius=0.112),
    "square": _Body(half_width=0.104, half_height=0.104, radius=0.02),
    "tall": _Body(half_width=0.066, half_height=0.15, radius=0.05),
    "triangle": _Body(half_width=0.072, half_height=0.125, radius=0.012, taper=0.85),
}
_LEG = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pose:
    """Pose of an actor at each of P frames; arrays have shape (P,)."""

    x: np.ndarray
    lift: np.ndarray
    lean: np.ndarray
    stride: np.ndarray
    wave: np.ndarray
    arm_up: float
    look: float


def puppet_cutouts(
    actor: Actor,
    action: int,
    *,
    mark: int,
    size: float,
    eyes: int,
    moments_P: np.ndarray,
    wardrobe: Sequence[str] = HATS,
) -> list[CutOut]:
    """Return the actor's cut-outs, back to front, for every frame of a scene.

    Args:
        action: Index into ACTIONS.
        mark: 0 for the left mark on the stage (Actor1), 1 for the right one (Actor2).
        size: Scale, 1 is the mean.
        eyes: Index into EYES.
        moments_P: The moment of the action that each frame shows, from 0 (its start) to 1 (its end).
        wardrobe: The hat drawn for each of HATS: one of HATS or NEW_HATS.
    """
    pose = _pose(ACTIONS[action], mark=mark, moments_P=moments_P)
    parts = _parts(actor, pose, eyes=EYES[eyes], hat=wardrobe[actor.hat])
    shadow = CutOut(pose.x, FLOOR_Y + 0.008, 0.10 * size, 0.018, 0.018, rgb=(0.20, 0.18, 0.24))
    return [shadow, *(_place(part, pose, size=size) for part in parts)]


def _pose(action: str, *, mark: int, moments_P: np.ndarray) -> _Pose:
    t = moments_P
    still = np.zeros_like(t)
    walking = {"walks right": 1.0, "walks left": -1.0}.get(action, 0.0)
    swing = np.sin(2 * np.pi * t)
    return _Pose(
        x=MARKS_X[mark] + walking * WALK * (2 * t - 1),
        lift=JUMP * 4 * t * (1 - t) if action == "jumps" else 0.012 * np.abs(swing) * abs(walking),
        lean=0.62 * np.sin(np.pi * t) if action == "bows" else still,
        stride=0.028 * swing * abs(walking),
        wave=0.55 * np.cos(2 * np.pi * t) if action == "waves" else still,
        arm_up=1.0 if action == "waves" else 0.0,
        look=0.022 * walking,
    )


def held_moments(num_frames: int) -> np.ndarray:
    """Return the moments of a whole action in a scene of P frames, (P,); each is held for two frames.

    The first frame stands alone and pairs follow, like the groups of a VAE whose
    `temporal_compression_ratio` is 2, so every latent frame holds one pose.
    """
    poses_P = (np.arange(num_frames) + 1) // 2
    moments_P: np.ndarray = poses_P / max(poses_P[-1], 1)
    return moments_P


def _parts(actor: Actor, pose: _Pose, *, eyes: str, hat: str) -> list[CutOut]:
    body = _BODIES[SHAPES[actor.shape]]
    rgb = BODY_RGB[actor.colour]
    middle = -(_LEG + body.half_height)
    face = middle - 0.22 * body.half_height if body.taper == 0 else middle + 0.18 * body.half_height
    legs = [
        CutOut(side * 0.045 + side * pose.stride, -0.028, 0.018, 0.03, 0.01, rgb=_DARK) for side in (-1, 1)
    ]
    trunk = CutOut(
        0.0, middle, body.half_width, body.half_height, body.radius, body.taper, rgb=rgb, outlined=True
    )
    return [
        *legs,
        _arm(body, pose, side=-1, rgb=rgb, middle=middle),
        _arm(body, pose, side=1, rgb=rgb, middle=middle),
        trunk,
        *_face(eyes, pose.look, y=face),
        *_hat(hat, y=middle - body.half_height),
    ]


def _arm(body: _Body, pose: _Pose, *, side: int, rgb: Rgb, middle: float) -> CutOut:
    shoulder_x = side * body.half_width * 0.94
    if side > 0 and pose.arm_up:
        angle = 0.35 + pose.wave
        reach = 0.075
        return CutOut(
            shoulder_x + reach * np.sin(angle), middle - reach * np.cos(angle), 0.022, 0.07, 0.022,
            angle=angle, rgb=rgb, outlined=True,
        )  # fmt: skip
    return CutOut(
        shoulder_x + side * 0.012,
        middle + 0.035,
        0.020,
        0.045,
        0.02,
        angle=-side * 0.3,
        rgb=rgb,
        outlined=True,
    )


def _face(eyes: str, look: float, *, y: float) -> list[CutOut]:
    mouth = CutOut(look, y + 0.055, 0.022, 0.007, 0.006, rgb=_DARK)
    whites = [CutOut(side * 0.036 + look, y, 0.028, 0.032, 0.028, rgb=_CREAM) for side in (-1, 1)]
    pupil = 0.013 if eyes == "wide" else 0.017
    pupils = [CutOut(side * 0.036 + look * 1.6, y, pupil, pupil, pupil, rgb=_DARK) for side in (-1, 1)]
    return [mouth, *(whites if eyes == "wide" else []), *pupils]


def _hat(hat: str, *, y: float) -> list[CutOut]:
    if hat == "top hat":
        return [
            CutOut(0.0, y - 0.055, 0.062, 0.058, 0.008, -0.08, rgb=(0.20, 0.16, 0.26), outlined=True),
            CutOut(0.0, y - 0.022, 0.062, 0.013, rgb=(0.86, 0.68, 0.22)),
            CutOut(0.0, y, 0.098, 0.013, 0.01, rgb=(0.20, 0.16, 0.26)),
        ]
    if hat == "party hat":
        return [
            CutOut(0.0, y - 0.065, 0.034, 0.075, 0.004, 0.9, rgb=(0.98, 0.42, 0.66), outlined=True),
            CutOut(0.0, y - 0.145, 0.024, 0.024, 0.024, rgb=(1.0, 0.92, 0.45)),
        ]
    if hat == "wool cap":
        return [
            CutOut(0.0, y - 0.028, 0.080, 0.048, 0.046, rgb=(0.10, 0.66, 0.66), outlined=True),
            CutOut(0.0, y + 0.010, 0.086, 0.018, 0.014, rgb=_CREAM),
            CutOut(0.0, y - 0.085, 0.026, 0.026, 0.026, rgb=_CREAM),
        ]
    if hat == "crown":
        points = [CutOut(x, y - 0.050, 0.020, 0.050, 0.002, 0.9, rgb=CROWN_RGB) for x in (-0.05, 0.0, 0.05)]
        return [CutOut(0.0, y - 0.018, 0.072, 0.026, 0.006, rgb=CROWN_RGB), *points]
    return []


def _place(part: CutOut, pose: _Pose, *, size: float) -> CutOut:
    """Scale a part, rotate it about the feet, and move it to the actor's position."""
    cos, sin = np.cos(pose.lean), np.sin(pose.lean)
    x, y = part.x * size, part.y * size
    return part._replace(
        x=pose.x + cos * x - sin * y,
        y=FLOOR_Y - pose.lift + sin * x + cos * y,
        half_width=part.half_width * size,
        half_height=part.half_height * size,
        radius=part.radius * size,
        angle=part.angle + pose.lean,
    )
