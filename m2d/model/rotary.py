"""Rotary embeddings of video tokens over (frame, row, column); the frame index counts across all scenes.

Owns the table and its application to queries and keys, without regard to scenes or masks. Tables follow
CogVideoX 1.0 (arXiv 2408.06072, section 2.2) and equal diffusers'
`get_3d_rotary_pos_embed(grid_type="linspace")` as its CogVideoX pipeline calls it; without a base grid, they
follow CogVideoX 1.5 and equal those of `grid_type="slice"`.
"""

# B batch, F latent frames, V video tokens, N heads, K head dim, R = K/2 rotated pairs.

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_THETA = 10_000.0


def rotary_table(
    head_dim: int,
    *,
    num_latent_frames: int,
    grid: tuple[int, int],
    base_grid: tuple[int, int] | None,
    device: torch.device,
) -> Tensor:
    """Make the (cos, sin) table of all video tokens.

    Args:
        head_dim: Channels of one attention head, a multiple of 16: a quarter rotates with the frame index,
            three eighths with the row and three eighths with the column.
        num_latent_frames: Latent frames of all scenes together, or as many as have tokens of their own.
        grid: Tokens of one frame as (rows, columns).
        base_grid: Grid of the size that the model was trained for; other grids are fitted into it. None for a
            model of many sizes, whose rows and columns are counted from 0.
        device: Device of the table.

    Returns:
        rotary_VR2: float32.

    Raises:
        ValueError: `head_dim` is not a multiple of 16.
    """
    if head_dim % 16:
        raise ValueError(
            f"attention_head_dim: {head_dim} is not a multiple of 16, which rotary embeddings need"
        )
    return torch.from_numpy(_table(head_dim, num_latent_frames, grid, base_grid)).to(device)


def apply_rotary(x_BVNK: Tensor, rotary_VR2: Tensor) -> Tensor:
    """Rotate neighbouring channel pairs of queries or keys by the angles of their token, in float32.

    Returns:
        Rotated, shape and dtype of `x_BVNK`.
    """
    pairs_BVNR2 = torch.unflatten(x_BVNK.float(), -1, (-1, 2))
    if torch.compiler.is_compiling():
        # Graphs use real arithmetic: inductor does not fuse complex numbers, and ONNX has none.
        real, imag = pairs_BVNR2.unbind(-1)
        cos, sin = (part[:, None] for part in rotary_VR2.unbind(-1))
        rotated_BVNR2 = torch.stack([real * cos - imag * sin, real * sin + imag * cos], dim=-1)
    else:
        # A complex product is 2 to 5 times as fast as the stacked form in eager mode on a CPU, with backward.
        angles = torch.view_as_complex(rotary_VR2)[:, None]
        rotated_BVNR2 = torch.view_as_real(torch.view_as_complex(pairs_BVNR2) * angles)
    return rotated_BVNR2.flatten(-2).to(x_BVNK.dtype)


def rotate_into(out_BVNK: Tensor, x_BVNK: Tensor, rotary_VR2: Tensor | None) -> None:
    """Write the result of `apply_rotary` into `out_BVNK`; for eager inference.

    Args:
        out_BVNK: Receives the result; may be `x_BVNK`.
        x_BVNK: Queries or keys.
        rotary_VR2: The table; None copies without rotation.
    """
    if rotary_VR2 is None:
        out_BVNK.copy_(x_BVNK)
        return
    angles = torch.view_as_complex(rotary_VR2)[:, None]
    pairs = torch.view_as_complex(torch.unflatten(x_BVNK.float(), -1, (-1, 2)))
    if x_BVNK.dtype == torch.float32:
        torch.mul(pairs, angles, out=torch.view_as_complex(torch.unflatten(out_BVNK, -1, (-1, 2))))
    else:
        out_BVNK.copy_(torch.view_as_real(pairs.mul_(angles)).flatten(-2))


# Arrays, not tensors: a tensor made while tracing must not stay in a cache after it.
@lru_cache(maxsize=16)
def _table(
    head_dim: int, num_latent_frames: int, grid: tuple[int, int], base_grid: tuple[int, int] | None
) -> npt.NDArray[np.float32]:
    rows, columns = grid
    top, left, bottom, right = (0, 0, rows, columns) if base_grid is None else _crop_over(base_grid, grid)
    angles = (
        _angles(head_dim // 4, np.arange(num_latent_frames)),
        _angles(head_dim // 8 * 3, _steps(top, bottom, rows)),
        _angles(head_dim // 8 * 3, _steps(left, right, columns)),
    )
    shape = (num_latent_frames, rows, columns)
    angles_FHWR = np.concatenate(
        [_spread(angles_PR, axis=axis, shape=shape) for axis, angles_PR in enumerate(angles)], axis=-1
    )
    angles_VR = angles_FHWR.reshape(num_latent_frames * rows * columns, head_dim // 2)
    return np.stack([np.cos(angles_VR), np.sin(angles_VR)], axis=-1)


def _angles(dim: int, positions: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    return np.outer(positions.astype(np.float32), 1.0 / np.float32(_THETA) ** exponents).astype(np.float32)


def _spread(
    angles_PR: npt.NDArray[np.float32], *, axis: int, shape: tuple[int, int, int]
) -> npt.NDArray[np.float32]:
    placed = [1, 1, 1, angles_PR.shape[1]]
    placed[axis] = angles_PR.shape[0]
    return np.broadcast_to(angles_PR.reshape(placed), (*shape, angles_PR.shape[1]))


def _steps(start: int, stop: int, count: int) -> npt.NDArray[np.float64]:
    return np.linspace(start, stop * (count - 1) / count, count)


def _crop_over(base_grid: tuple[int, int], grid: tuple[int, int]) -> tuple[int, int, int, int]:
    """Fit `grid` into `base_grid` keeping its aspect ratio, centred: (top, left, bottom, right)."""
    (base_rows, base_columns), (rows, columns) = base_grid, grid
    if rows / columns > base_rows / base_columns:
        height, width = base_rows, round(base_rows / rows * columns)
    else:
        height, width = round(base_columns / columns * rows), base_columns
    top, left = round((base_rows - height) / 2.0), round((base_columns - width) / 2.0)
    return top, left, top + height, left + width
