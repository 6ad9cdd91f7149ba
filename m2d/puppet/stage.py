"""The painted backdrops: sky, sun or moon, hills, ground and the one tree of a story.

Shapes: B clips, H W pixels. Backdrops do not move. Coordinates are fractions of the picture's height.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from m2d.puppet.raster import CutOut, pack, paint
from m2d.puppet.story import Backdrop
from m2d.puppet.vocabulary import SETTINGS, TIMES

Rgb = tuple[float, float, float]

_SKY: dict[str, tuple[Rgb, Rgb]] = {
    "noon": ((0.42, 0.72, 0.95), (0.80, 0.92, 0.98)),
    "dusk": ((0.45, 0.32, 0.58), (0.99, 0.66, 0.42)),
    "night": ((0.10, 0.13, 0.32), (0.25, 0.30, 0.55)),
}
_TINT: dict[str, Rgb] = {"noon": (1.0, 1.0, 1.0), "dusk": (0.92, 0.72, 0.66), "night": (0.42, 0.48, 0.72)}
_SUN: dict[str, Rgb] = {"noon": (1.0, 0.90, 0.35), "dusk": (1.0, 0.45, 0.25), "night": (0.96, 0.95, 0.82)}
_GROUND: dict[str, tuple[Rgb, Rgb]] = {
    "park": ((0.52, 0.78, 0.36), (0.38, 0.64, 0.28)),
    "desert": ((0.94, 0.78, 0.48), (0.86, 0.64, 0.36)),
    "snowfield": ((0.94, 0.97, 1.0), (0.80, 0.87, 0.95)),
    "beach": ((0.97, 0.90, 0.68), (0.92, 0.80, 0.55)),
    "city": ((0.62, 0.62, 0.66), (0.48, 0.48, 0.53)),
    "forest": ((0.30, 0.48, 0.24), (0.20, 0.36, 0.18)),
}
_HILLS: dict[str, Rgb] = {
    "park": (0.55, 0.74, 0.50),
    "desert": (0.88, 0.60, 0.38),
    "snowfield": (0.68, 0.78, 0.90),
    "beach": (0.20, 0.58, 0.78),
    "city": (0.50, 0.46, 0.58),
    "forest": (0.16, 0.36, 0.26),
}
_HILL_HEIGHT = {"park": 0.08, "desert": 0.10, "snowfield": 0.16, "beach": 0.07, "city": 0.20, "forest": 0.16}
_STARS = (
    (0.08, 0.07),
    (0.21, 0.17),
    (0.34, 0.05),
    (0.47, 0.21),
    (0.58, 0.09),
    (0.72, 0.19),
    (0.83, 0.06),
    (0.94, 0.15),
)
_MAX_SKY = 10
_MAX_TREE = 8


def paint_backdrops(backdrops: list[Backdrop], *, height: int, width: int) -> Tensor:
    """Return the empty stages as RGB in 0..1, shape (B, 3, H, W)."""
    canvas_BCHW = _sky(backdrops, height=height, width=width)
    aspect = width / height
    skies = [pack(_sky_cutouts(item, aspect), num_frames=1, length=_MAX_SKY) for item in backdrops]
    paint(canvas_BCHW[:, None], torch.from_numpy(np.stack(skies)))
    for index, item in enumerate(backdrops):
        _paint_land(canvas_BCHW[index], item)
    trees = [pack(_tree(item, aspect), num_frames=1, length=_MAX_TREE) for item in backdrops]
    paint(canvas_BCHW[:, None], torch.from_numpy(np.stack(trees)))
    return canvas_BCHW


def _tinted(rgb: Rgb, time: str) -> Rgb:
    tint = _TINT[time]
    return (rgb[0] * tint[0], rgb[1] * tint[1], rgb[2] * tint[2])


def _sky(backdrops: list[Backdrop], *, height: int, width: int) -> Tensor:
    colours_B2C = torch.tensor([_SKY[TIMES[item.time]] for item in backdrops])
    horizon_B1 = torch.tensor([[item.horizon_y] for item in backdrops])
    fraction_BH = (((torch.arange(height) + 0.5) / height)[None] / horizon_B1).clamp(max=1.0)
    top_BCH = colours_B2C[:, 0, :, None] * (1 - fraction_BH[:, None])
    sky_BCH = top_BCH + colours_B2C[:, 1, :, None] * fraction_BH[:, None]
    return sky_BCH[..., None].expand(-1, -1, -1, width).clone()


def _sky_cutouts(item: Backdrop, aspect: float) -> list[CutOut]:
    time = TIMES[item.time]
    x, y = item.sun_x * aspect, 0.30 if time == "dusk" else 0.17
    stars = [CutOut(sx * aspect, sy, 0.008, 0.008, 0.008, rgb=(0.95, 0.95, 0.85)) for sx, sy in _STARS]
    disc = CutOut(x, y, 0.085, 0.085, 0.085, rgb=_SUN[time])
    return [*(stars if time == "night" else []), disc]


def _paint_land(canvas_CHW: Tensor, item: Backdrop) -> None:
    """Paint hills and ground of one stage in place."""
    height, width = canvas_CHW.shape[-2:]
    setting, time = SETTINGS[item.setting], TIMES[item.time]
    x_W = (torch.arange(width) + 0.5) / height
    y_H1 = ((torch.arange(height) + 0.5) / height)[:, None]
    ridge_W = item.horizon_y - _HILL_HEIGHT[setting] * _ridge(setting, x_W)
    hills_HW = (0.5 + (y_H1 - ridge_W) * height).clamp(0, 1)
    ground_HW = (0.5 + (y_H1 - item.horizon_y) * height).clamp(0, 1).expand(-1, width)
    depth_H1 = ((y_H1 - item.horizon_y) / (1 - item.horizon_y)).clamp(0, 1)
    near, far = (torch.tensor(_tinted(rgb, time))[:, None, None] for rgb in reversed(_GROUND[setting]))
    hill_rgb = torch.tensor(_tinted(_HILLS[setting], time))[:, None, None]
    canvas_CHW += hills_HW * (hill_rgb - canvas_CHW)
    canvas_CHW += ground_HW * (far + depth_H1 * (near - far) - canvas_CHW)


def _ridge(setting: str, x_W: Tensor) -> Tensor:
    """Return the hills' outline in 0..1 over x; each setting has its own silhouette."""
    if setting == "city":
        blocks = torch.floor(x_W * 8.0)
        return 0.35 + 0.65 * torch.frac(torch.sin(blocks * 12.9898) * 437.585).abs()
    if setting == "forest":
        return 0.45 + 0.55 * (1 - 2 * (torch.frac(x_W * 7.0) - 0.5).abs())
    if setting == "snowfield":
        return (1 - 2 * (torch.frac(x_W * 1.6 + 0.2) - 0.5).abs()).pow(0.9)
    if setting == "beach":
        return torch.ones_like(x_W)
    waves = 2.2 if setting == "park" else 1.3
    return 0.5 + 0.5 * torch.sin(2 * torch.pi * waves * x_W + 0.8)


def _tree(item: Backdrop, aspect: float) -> list[CutOut]:
    """Return the story's tree, or its counterpart in the setting: cactus, palm, lamp post or fir."""
    setting, time = SETTINGS[item.setting], TIMES[item.time]
    x, foot = item.tree_x * aspect, item.horizon_y + 0.05

    def part(dx: float, up: float, half_width: float, half_height: float, rgb: Rgb, **more: float) -> CutOut:
        return CutOut(
            x + dx, foot - up, half_width, half_height, rgb=_tinted(rgb, time), outlined=True, **more
        )

    trunk, leaf, fir, cactus = (0.50, 0.33, 0.20), (0.22, 0.55, 0.22), (0.12, 0.42, 0.28), (0.22, 0.52, 0.30)
    if setting == "park":
        return [part(0, 0.09, 0.022, 0.10, trunk), part(0, 0.27, 0.115, 0.115, leaf, radius=0.11)]
    if setting == "desert":
        return [
            part(0, 0.14, 0.035, 0.15, cactus, radius=0.03),
            part(-0.07, 0.17, 0.022, 0.05, cactus, radius=0.02),
            part(0.07, 0.20, 0.022, 0.05, cactus, radius=0.02),
        ]
    if setting == "beach":
        palm = [part(0.01, 0.17, 0.018, 0.18, trunk, angle=0.08)]
        return palm + [
            part(0.03 + dx, 0.35 + dy, 0.075, 0.022, leaf, radius=0.02, angle=a) for dx, dy, a in _FRONDS
        ]
    if setting == "city":
        return [
            part(0, 0.17, 0.012, 0.18, (0.25, 0.25, 0.30)),
            CutOut(x, foot - 0.37, 0.04, 0.045, 0.02, rgb=(1.0, 0.93, 0.62), outlined=True),
        ]
    top = (0.93, 0.96, 1.0) if setting == "snowfield" else (0.18, 0.50, 0.32)
    return [
        part(0, 0.04, 0.022, 0.05, trunk),
        part(0, 0.15, 0.062, 0.085, fir, taper=0.9),
        part(0, 0.26, 0.050, 0.075, fir, taper=0.9),
        part(0, 0.35, 0.032, 0.050, top, taper=0.9),
    ]


_FRONDS = ((-0.07, -0.02, -0.5), (0.07, -0.02, 0.5), (-0.05, 0.03, 0.4), (0.05, 0.03, -0.4))
