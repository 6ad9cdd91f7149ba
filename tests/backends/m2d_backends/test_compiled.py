"""What compiled code has in common with eager beyond the contract: kept context and tables, in all scopes."""

from pathlib import Path

import pytest
import torch

from m2d.errors import BackendError
from m2d.families.source import resolve_model
from m2d.registry import get_backend
from tests.contract.stories import assert_same_velocity, inputs_for, options_for, oracle
from tests.contract.test_context import CAUSAL, TARGETS
from tests.m2d.model.tiny_model import build_tiny_model


# It compiles two graphs each.
@pytest.mark.long
@pytest.mark.parametrize("tables", ["true", "false"])
@pytest.mark.parametrize("scope", ["blocks", "whole"])
def test_kept_context_and_tables_run_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scope: str, tables: str
) -> None:
    monkeypatch.setenv("M2D_CACHE", str(tmp_path / "cache"))
    source = resolve_model(str(build_tiny_model(tmp_path / "model")))
    extra = {"scope": scope, "timestep_tables": tables}
    denoiser = get_backend("compile").prepare(
        source, CAUSAL, options_for(targets=TARGETS, timesteps=(999, 400), extra=extra)
    )
    latents, prompts, _ = inputs_for(CAUSAL)
    kept = denoiser.keep_context(latents, prompts, targets=TARGETS)  # type: ignore[attr-defined]  # it can
    assert kept.context_bytes > 0
    for timestep in (999, 400):
        inputs = inputs_for(CAUSAL, timesteps=(0, 0, timestep))
        expected = oracle(source, CAUSAL, inputs, TARGETS)
        assert_same_velocity(denoiser.predict(*inputs), expected)
        assert_same_velocity(kept.predict(*inputs), expected)
    if tables == "true":
        latents, prompts, _ = inputs
        with pytest.raises(BackendError, match=r"timesteps \[7\] are not in .*, which hold \[0, 400, 999\]"):
            kept.predict(latents, prompts, torch.tensor([[0, 0, 7]]))
