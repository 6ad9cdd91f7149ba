"""Tables that replace the layers whose only input is the timestep, for the timesteps of one run.

Owns making the tables and looking up rows. In CogVideoX-5B these layers, the linear layers of all adaptive
norms, have 0.8 of 5.6 billion weights; their outputs for the 51 timesteps of a run are a tenth of that.
"""

# B batch, N scenes, R rows of a table (known timesteps), X output features of a layer.

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from m2d.errors import BackendError, InputError
from m2d.model.scene_lora import SceneLinear

# Some CPU kernels sum products of fewer rows in another order; see `use_timestep_tables`.
_FEWEST_ROWS = 8


class TimestepRows(nn.Module):
    """Finds the table row of each timestep."""

    timesteps_R: Tensor

    def __init__(self, timesteps: Iterable[int], *, device: torch.device) -> None:
        """Store the timesteps, ascending and without duplicates."""
        super().__init__()
        self.register_buffer("timesteps_R", torch.tensor(sorted(set(timesteps)), device=device))

    def forward(self, timesteps_BN: Tensor) -> Tensor:
        """Return rows, BN int64. An unknown timestep gets the row after the last, on which lookups fail."""
        is_row_BNR = timesteps_BN[:, :, None] == self.timesteps_R
        rows_BN = is_row_BNR.int().argmax(dim=-1)
        return torch.where(is_row_BNR.any(dim=-1), rows_BN, len(self.timesteps_R))

    def check(self, timesteps_BN: Tensor) -> None:
        """Check that every timestep has a row.

        Raises:
            BackendError: A timestep has none.
        """
        unknown = timesteps_BN[~torch.isin(timesteps_BN, self.timesteps_R)]
        if len(unknown):
            raise BackendError(
                f"timesteps {sorted(set(unknown.tolist()))} are not in this denoiser's tables, which hold "
                f"{self.timesteps_R.tolist()}; prepare it for them, or without timestep_tables"
            )


class TimestepTable(nn.Module):
    """Looks up a linear layer's output for a timestep."""

    table_RX: Tensor

    def __init__(self, table_RX: Tensor) -> None:
        """Store the layer's outputs, a row per timestep."""
        super().__init__()
        self.register_buffer("table_RX", table_RX)

    def forward(self, rows_BN: Tensor) -> Tensor:
        """Return the rows, BNX. Raises IndexError for a row after the last."""
        return nn.functional.embedding(rows_BN, self.table_RX)


class TimedTransformer(Protocol):
    """The parts of a transformer that its tables need."""

    transformer_blocks: nn.ModuleList
    timestep_rows: TimestepRows | None

    @property
    def device(self) -> torch.device:
        """Device of its weights."""

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of its weights."""

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
    """Replace, in place, the linear layers of all adaptive norms by tables of their outputs.

    The transformer then runs with these timesteps only and computes the same. Results are equal to the bit if
    the layers run on four or more rows (scenes times batch). With fewer, float32 kernels of a CPU sum in
    another order (measured: differences up to 7e-7 in values of about 1; none in bfloat16).

    Args:
        transformer: For inference.
        timesteps: All timesteps that it will get; clean context has 0.

    Returns:
        Freed memory in bytes.

    Raises:
        InputError: LoRAs of single scenes adapt these layers, or those that embed the timestep.
    """
    _refuse_scene_loras(transformer)
    before = held_bytes(transformer)
    rows = TimestepRows(timesteps, device=transformer.device)
    known_R = rows.timesteps_R
    padded_R = torch.cat([known_R, known_R[-1:].expand(max(0, _FEWEST_ROWS - len(known_R)))])
    temb_RE = transformer.embed_timesteps(padded_R[None], dtype=transformer.dtype)[0]
    for norm in _adaptive_norms(transformer):
        # A copy, because a view would keep the rows of the padding in memory.
        made_RX: Tensor = norm.get_submodule("linear")(temb_RE)
        norm.linear = TimestepTable(made_RX[: len(known_R)].clone())
    transformer.timestep_rows = rows
    return before - held_bytes(transformer)


def held_bytes(module: nn.Module | TimedTransformer) -> int:
    """Return the memory of a module's parameters and buffers."""
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def _adaptive_norms(transformer: TimedTransformer) -> Iterator[nn.Module]:
    for block in range(len(transformer.transformer_blocks)):
        for name in ("norm1", "norm2"):
            yield transformer.get_submodule(f"transformer_blocks.{block}.{name}")
    yield transformer.get_submodule("norm_out")


def _refuse_scene_loras(transformer: TimedTransformer) -> None:
    layers = [norm.get_submodule("linear") for norm in _adaptive_norms(transformer)]
    layers += transformer.get_submodule("time_embedding").modules()
    if any(isinstance(layer, SceneLinear) for layer in layers):
        raise InputError(
            "timestep_tables: a table serves all scenes, but LoRAs of single scenes adapt the layers that it "
            "replaces; leave the option out"
        )
