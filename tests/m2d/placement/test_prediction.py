"""What a film takes by prediction: the published figures of 5B, and the mode that fits a device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks.memory_table import MOST_ABOVE_WEIGHTS, work_of
from m2d.families.registry import NEW_MODELS, known_model
from m2d.layout import SceneLayout
from m2d.placement.cards import CARDS, find_card
from m2d.placement.modes import MEMORY_MODES, Quantized
from m2d.placement.prediction import (
    FilmNeeds,
    FilmWork,
    Rates,
    Target,
    WindowWork,
    card_target,
    choose,
    film_needs,
    least_memory,
)

GIB = 1 << 30
TINY_VAE = {
    "block_out_channels": [8, 8, 8, 8],
    "down_block_types": ["CogVideoXDownBlock3D"] * 4,
    "in_channels": 3,
    "latent_channels": 16,
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "out_channels": 3,
    "temporal_compression_ratio": 4,
    "up_block_types": ["CogVideoXUpBlock3D"] * 4,
}


@pytest.fixture(scope="module")
def needs() -> FilmNeeds:
    """Three scenes of 49x480x720 with 5B, guidance batched; a small VAE, whose counting is quick."""
    known = known_model("CogVideoX-5b")
    assert known is not None
    work = work_of(known, is_batched=True)
    return film_needs(replace(work, configs={**work.configs, "vae": TINY_VAE}, num_continued=1))


def test_a_step_of_5b_has_the_operations_of_the_formula(needs: FilmNeeds) -> None:
    window, transformer = needs.windows[0]
    tokens, video, width, batch = 678 + 52650, 17550, 3072, 2
    pairs = (3 * video) ** 2 + 2 * 3 * 226 * video + 3 * 226**2
    blocks = 42 * batch * (2 * tokens * 12 * width**2 + 4 * width * pairs)
    # The last block leaves out its text rows, which reach no output: 0.014 % of a step.
    assert transformer.flops == pytest.approx(blocks, rel=2e-4)
    assert window.num_calls == 50


def test_activations_of_5b_are_within_the_bounds(needs: FilmNeeds) -> None:
    known = known_model("CogVideoX-5b")
    assert known is not None
    work = work_of(known, is_batched=False)
    # Names that nothing reads count nothing, not even an empty one.
    odd = {**work.configs["text_encoder"], "": 3, "_name": 4}
    one = film_needs(replace(work, configs={**work.configs, "vae": TINY_VAE, "text_encoder": odd}))
    assert one.text == needs.text
    found = {"batched": needs.windows[0][1], "sequential": one.windows[0][1]}
    for guidance, most in MOST_ABOVE_WEIGHTS.items():
        assert 0.2 * most < found[guidance].activation_bytes <= most


def test_weights_of_5b_and_its_text_encoder_are_those_of_their_parameters(needs: FilmNeeds) -> None:
    assert needs.windows[0][1].weights_bytes == 2 * 5_570_283_072
    # T5-XXL's encoder has 4.76 billion.
    assert needs.text.weights_bytes == 2 * 4_762_310_656


def test_each_mode_holds_less_than_the_one_before(needs: FilmNeeds) -> None:
    held = [needs.windows[0][1].resident_bytes[mode] for mode in MEMORY_MODES]
    assert held[0] == held[1] > held[2] > held[3] > 0
    # Two of 42 blocks, and what is around them.
    assert held[2] < held[0] / 15


def test_of_two_large_parts_one_at_most_counts_in_any_stage(needs: FilmNeeds) -> None:
    transformer = needs.windows[0][1]
    for mode in MEMORY_MODES:
        peaks = needs.stage_bytes(mode, "sliced")
        assert peaks["encode prompts"] == needs.text.peak_bytes(mode)
        assert peaks["decode"] < needs.text.weights_bytes
        if mode != "full":
            assert peaks["denoise"] == transformer.peak_bytes(mode)
    beside = needs.vae_bytes + needs.vae.decode_bytes["sliced"]
    assert needs.stage_bytes("full", "sliced")["denoise"] >= transformer.weights_bytes + beside


def test_a_pipeline_that_stays_loaded_holds_all_parts_or_offloads_them(needs: FilmNeeds) -> None:
    stays = replace(needs, work=replace(needs.work, stays_loaded=True))
    parts = needs.text.weights_bytes + needs.windows[0][1].weights_bytes + needs.vae_bytes
    alone, together = (each.stage_bytes("full", "sliced") for each in (needs, stays))
    assert {name: together[name] - alone[name] for name in alone} == {
        "encode prompts": parts - needs.text.weights_bytes,
        "denoise": parts - needs.windows[0][1].weights_bytes,
        "decode": parts - needs.vae_bytes,
    }
    assert stays.stage_bytes("model-offload", "tiled") == needs.stage_bytes("model-offload", "tiled")
    assert [choose(each, target(20)).memory for each in (needs, stays)] == ["full", "model-offload"]


def target(free_gib: float) -> Target:
    rates = Rates(transformer_flops=1e14, vae_flops=1e13, bus_bytes=1e10)
    return Target(name="a card", free_bytes=int(free_gib * GIB), rates=rates, is_measured=False)


@pytest.mark.parametrize(
    ("free_gib", "mode"), [(40, "full"), (17, "full"), (11, "group-offload"), (5.4, "group-offload")]
)
def test_the_fastest_mode_that_fits_is_chosen(needs: FilmNeeds, free_gib: float, mode: str) -> None:
    choice = choose(needs, target(free_gib))
    assert (choice.memory, choice.is_fitting) == (mode, True)
    assert least_memory(needs, choice) <= free_gib * GIB
    assert f"a card has {free_gib:.1f} GiB free" in choice.reason


def test_sequential_fits_where_groups_do_not(needs: FilmNeeds) -> None:
    peaks = [max(needs.stage_bytes(mode, "tiled").values()) for mode in MEMORY_MODES[2:]]
    assert choose(needs, target(1.1 * sum(peaks) / 2 / GIB)).memory == "sequential"


def test_where_nothing_fits_the_least_that_would_do_is_known(needs: FilmNeeds) -> None:
    choice = choose(needs, target(2))
    assert not choice.is_fitting
    assert choose(needs, target(least_memory(needs, choice) / GIB + 0.01)).is_fitting


def test_a_mode_that_was_asked_for_is_kept_though_it_does_not_fit(needs: FilmNeeds) -> None:
    choice = choose(needs, target(8), memory="full", decode="plain")
    assert (choice.memory, choice.decode, choice.is_fitting) == ("full", "plain", False)


def test_quantized_weights_take_about_half() -> None:
    known = known_model("CogVideoX-5b")
    assert known is not None
    work = work_of(known, is_batched=True)
    work = replace(work, configs={**work.configs, "vae": TINY_VAE}, quantized=Quantized(kind="int8"))
    assert film_needs(work).windows[0][1].weights_bytes == pytest.approx(5_570_283_072, rel=0.02)


def test_offloaded_blocks_take_the_time_of_copying_where_that_is_longer(needs: FilmNeeds) -> None:
    slow_bus = Rates(transformer_flops=1e18, vae_flops=1e18, bus_bytes=1e9)
    choice = choose(needs, target(11))
    (denoise,) = (stage for stage in needs.stages(choice, slow_bus) if stage.name == "denoise")
    assert denoise.seconds == pytest.approx(50 * needs.windows[0][1].weights_bytes / 1e9)


def test_a_card_is_found_by_the_name_that_its_driver_gives() -> None:
    assert find_card("NVIDIA GeForce RTX 4090") == find_card("rtx4090") == find_card("RTX 4090")
    assert find_card("GTX 1080") is None
    assert len({card.name for card in CARDS}) == len(CARDS)


def test_a_float32_run_on_a_card_is_slower() -> None:
    (card,) = (card for card in CARDS if card.name == "RTX 4090")
    half, single = (card_target(card, is_half=is_half).rates for is_half in (True, False))
    assert half.transformer_flops == pytest.approx(2 * single.transformer_flops)


def tiny(num_frames: int, **changes: Any) -> FilmWork:
    layout = SceneLayout.build("mask2dit", text_tokens=[4], latent_frames=[num_frames], tokens_per_frame=4)
    known = known_model("CogVideoX-5b")
    assert known is not None
    small = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16, "text_embed_dim": 16}
    return FilmWork(
        family=NEW_MODELS,
        configs={
            "transformer": {**known.transformer, **small, "max_text_seq_length": 4},
            "vae": TINY_VAE,
            "text_encoder": {
                **known.text_encoder,
                "d_model": 16,
                "d_ff": 32,
                "num_heads": 2,
                "num_layers": 1,
            },
        },
        dtype=torch.float32,
        latent_size=(4, 4),
        windows=[WindowWork(layout=layout, num_calls=1, batch_size=1)],
        scenes=[num_frames],
        num_prompts=1,
        **changes,
    )


def test_given_scenes_are_encoded_in_a_stage_of_their_own() -> None:
    assert "encode frames" not in film_needs(tiny(3)).stage_bytes("full", "plain")
    encoded = film_needs(tiny(3, num_given=2))
    peaks = encoded.stage_bytes("full", "plain")
    assert peaks["encode frames"] == encoded.vae_bytes + encoded.vae.encode_bytes
