import pytest
import torch
from safetensors.torch import load_file

from benchmarks.baselines.official import OfficialTransformer
from benchmarks.baselines.stock import stock_model
from benchmarks.cases import Case, make_inputs, make_transformer
from benchmarks.oracle import FIXTURE, TOLERANCE
from m2d.families.loading import load_transformer

CASE = Case(
    num_heads=1, num_layers=2, text_tokens=3, latent_frames=2, grid=(2, 3), text_width=8, time_width=8
)


@torch.no_grad()
def test_the_baseline_is_the_official_model() -> None:
    model = load_transformer(FIXTURE, device="cpu", dtype=torch.float32)
    io = load_file(FIXTURE / "io.safetensors")
    official = OfficialTransformer(stock_model(model), 3)
    inputs = io["latents"], io["prompt_embeds"]
    assert (official(*inputs, io["timestep"]) - io["fixed"]).abs().max() <= TOLERANCE
    for target in range(3):
        timesteps_BN = io["timestep"][:, None] * (torch.arange(3) == target)
        expected = io[f"clean_context_target_{target}"]
        assert (official(*inputs, timesteps_BN) - expected).abs().max() <= TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("target", [None, 1])
def test_ours_equals_the_official_scheme(target: int | None) -> None:
    model = make_transformer(CASE)
    official = OfficialTransformer(stock_model(model), CASE.num_scenes)
    latents, prompts, timesteps_BN = make_inputs(CASE, target=target)
    ours = model(latents, prompts, timesteps_BN, layout=CASE.layout)
    theirs = official(latents, prompts, timesteps_BN[:, 0] if target is None else timesteps_BN)
    assert ours.abs().max() > 0.1
    assert (ours - theirs).abs().max() <= TOLERANCE
