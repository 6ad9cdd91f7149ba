"""Tables in place of the layers that are given the timestep and nothing else, for the few timesteps of a run.

Owns making the tables and looking rows up. In CogVideoX-5B these layers, the linear parts of all adaptive
norms, hold 0.8 of 5.6 billion weights; what they make of the 51 timesteps of a run is a tenth of that.
"""

# B batch, N scenes, R rows of a table: known timesteps, X what a layer makes of one.

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from m2d.errors import BackendError

# A product of fewer rows is summed in another order by some CPU kernels; see `use_timestep_tables`.
_FEWEST_ROWS = 8


class TimestepRows(nn.Module):
    """Finds the row of every timestep."""

    timesteps_R: Tensor

    def __init__(self, timesteps: Iterable[int], *, device: torch.device) -> None:
        """Know these timesteps, each once and ascending."""
        super().__init__()
        self.register_buffer("timesteps_R", torch.tensor(sorted(set(timesteps)), device=device))

    def forward(self, timesteps_BN: Tensor) -> Tensor:
        """Rows, BN int64. What has none gets one behind the last, which every lookup refuses."""
        is_row_BNR = timesteps_BN[:, :, None] == self.timesteps_R
        rows_BN = is_row_BNR.int().argmax(dim=-1)
        return torch.where(is_row_BNR.any(dim=-1), rows_BN, len(self.timesteps_R))

    def check(self, timesteps_BN: Tensor) -> None:
        """Make sure that every timestep has a row.

        Raises:
            BackendError: One has not.
        """
        unknown = timesteps_BN[~torch.isin(timesteps_BN, self.timesteps_R)]
        if len(unknown):
            raise BackendError(
                f"timesteps {sorted(set(unknown.tolist()))} are not in this denoiser's tables, which hold "
                f"{self.timesteps_R.tolist()}; prepare it for them, or without timestep_tables"
            )


class TimestepTable(nn.Module):
    """Looks up what a linear layer made of every timestep."""

    table_RX: Tensor

    def __init__(self, table_RX: Tensor) -> None:
        """Take the layer's outputs, a row per timestep."""
        super().__init__()
        self.register_buffer("table_RX", table_RX)

    def forward(self, rows_BN: Tensor) -> Tensor:
        """Return the rows, BNX. Raises IndexError for one behind the last."""
        return nn.functional.embedding(rows_BN, self.table_RX)


class TimedTransformer(Protocol):
    """What tables need of a transformer."""

    transformer_blocks: nn.ModuleList
    timestep_rows: TimestepRows | None

    @property
    def device(self) -> torch.device:
        """Device of its weights."""

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""

    def embed_timesteps(self, timesteps_BN: Tensor, *, dtype: torch.dtype) -> Tensor:
        """Embed every scene's timestep: temb_BNE."""

    def get_submodule(self, target: str) -> nn.Module:
        """Return a module by its dotted name."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield its weights."""

    def buffers(self) -> Iterator[Tensor]:
        """Yield its tables."""


@torch.no_grad()
def use_timestep_tables(transformer: TimedTransformer, timesteps: Iterable[int]) -> int:
    """Replace, in place, the linear layers of all adaptive norms by what they make of some timesteps.

    The transformer computes the same from then on, for these timesteps and no others. To the bit where the
    layers were run on rows enough (scenes times batch): with fewer than four, a CPU's float32 kernels sum in
    another order (measured: differences up to 7e-7 in values of about 1; none in bfloat16).

    Args:
        transformer: For inference.
        timesteps: All that it will be run with; clean context has 0.

    Returns:
        Bytes of memory that this frees.
    """
    before = held_bytes(transformer)
    rows = TimestepRows(timesteps, device=transformer.device)
    known_R = rows.timesteps_R
    padded_R = torch.cat([known_R, known_R[-1:].expand(max(0, _FEWEST_ROWS - len(known_R)))])
    temb_RE = transformer.embed_timesteps(padded_R[None], dtype=transformer.dtype)[0]
    for norm in _adaptive_norms(transformer):
        # A copy: a view would hold the padding's rows.
        made_RX: Tensor = norm.get_submodule("linear")(temb_RE)
        norm.linear = TimestepTable(made_RX[: len(known_R)].clone())
    transformer.timestep_rows = rows
    return before - held_bytes(transformer)


def held_bytes(module: nn.Module | TimedTransformer) -> int:
    """Memory of a module's parameters and buffers."""
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def _adaptive_norms(transformer: TimedTransformer) -> Iterator[nn.Module]:
    for block in range(len(transformer.transformer_blocks)):
        for name in ("norm1", "norm2"):
            yield transformer.get_submodule(f"transformer_blocks.{block}.{name}")
    yield transformer.get_submodule("norm_out")
