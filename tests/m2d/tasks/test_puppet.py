from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from m2d.errors import CheckpointError, InputError, OutputBusy, RecipeError
from m2d.families.cogvideox.transformer import SceneTransformer
from m2d.families.cogvideox.vae import CogVideoXVae
from m2d.families.loading import load_text, load_transformer, load_vae
from m2d.families.saving import write_component, write_settings
from m2d.families.source import resolve_model
from m2d.lock import hold
from m2d.model.settings import ModelSettings
from m2d.progress import SilentReporter
from m2d.puppet.attribute_classifier import CLASSIFIER_FILE, load_classifier
from m2d.puppet.training.attribute_classifier import ClassifierRecipe
from m2d.puppet.training.pack import PackPlan
from m2d.puppet.training.text_encoder import TextEncoderRecipe
from m2d.puppet.training.vae import VaeRecipe
from m2d.recipe.loader import load_document
from m2d.tasks.puppet import PartPlan, pack, train_part
from m2d.training.recipe import TrainingRecipe
from m2d.training.state import find_checkpoint
from tests.m2d.puppet.training.tiny_helpers import CODEC, DECODER, READER, TEXT

FEW = {"steps": 2, "evaluate_every_steps": 100}


def write_recipe(path: Path, document: dict[str, Any]) -> Path:
    path.write_text(json.dumps(document))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> PackPlan:
    """The runs of all three helpers, and how to pack them."""
    folder = tmp_path_factory.mktemp("helpers")
    recipes = {
        part: write_recipe(folder / f"puppet-{part}.yaml", document | FEW)
        for part, document in (("codec", CODEC), ("text", TEXT), ("reader", READER))
    }
    for part, recipe in recipes.items():
        plan = PartPlan(part=part, recipe=recipe, run=folder / part)  # type: ignore[arg-type]
        assert train_part(plan, SilentReporter()) == folder / part
    return PackPlan(
        vae_recipe=recipes["codec"],
        vae_run=folder / "codec",
        text_recipe=recipes["text"],
        text_run=folder / "text",
        classifier_run=folder / "reader",
        out=folder / "unused",
    )


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a finished stage of two scenes leaves, as far as packing looks at it."""
    return write_transformer(tmp_path_factory.mktemp("stage"))


def write_transformer(folder: Path, **changes: Any) -> Path:
    config = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": CODEC["latent_channels"],
        "out_channels": CODEC["latent_channels"],
        "time_embed_dim": 16,
        "text_embed_dim": TEXT["d_model"],
        "num_layers": 1,
        "sample_width": 8,
        "sample_height": 8,
        "sample_frames": 9,
        "patch_size": 2,
        "max_text_seq_length": TEXT["max_text_tokens"],
        "use_rotary_positional_embeddings": True,
    }
    write_component(folder, "transformer", SceneTransformer(**(config | changes)), dtype=torch.float16)
    settings = ModelSettings(
        num_scenes=2, default_num_frames=9, default_height=32, default_width=32, default_fps=8, world="puppet"
    )
    write_settings(folder, settings)
    return folder


def test_every_helper_leaves_a_checkpoint(made: PackPlan) -> None:
    for run in (made.vae_run, made.text_run, made.classifier_run):
        assert run is not None
        assert find_checkpoint(run).path == run / "checkpoints" / "step-00000002"


def test_a_packed_folder_with_a_transformer_is_a_model_that_loads(
    made: PackPlan, transformer: Path, tmp_path: Path
) -> None:
    out = pack(replace(made, out=tmp_path / "model", transformer=transformer), SilentReporter())
    source = resolve_model(str(out))
    assert source.is_puppet
    assert (source.geometry.num_scenes, source.geometry.max_text_tokens) == (2, 36)
    float32 = {"device": "cpu", "dtype": torch.float32}
    assert load_transformer(source, **float32).config.num_layers == 1
    embeds = load_text(source, **float32).encode(["Park at noon. Actor1 (round red body, no hat) waves."])
    assert embeds.shape == (1, 36, TEXT["d_model"])
    codec = load_vae(source, **float32).module
    latents = CogVideoXVae(codec).encode_clips((torch.rand(9, 3, 32, 32) * 2 - 1)[None])[0]
    assert latents.shape == (3, CODEC["latent_channels"], 8, 8)
    assert CogVideoXVae(codec).decode(latents).shape == (9, 32, 32, 3)
    reader = load_classifier(out / CLASSIFIER_FILE, num_frames=5, height=32, width=32)
    assert reader.read(torch.rand(2, 5, 3, 32, 32)).numbers.shape == (2, 4)


# Wider layers add the same float32 numbers in another order.
@pytest.mark.parametrize(("channels", "rounding"), [(None, 0.0), ([8, 8, 16], 2e-5)])
def test_a_decoder_trained_on_what_a_model_makes_is_packed_and_leaves_its_latents_as_they_are(
    channels: list[int] | None, rounding: float, made: PackPlan, transformer: Path, tmp_path: Path
) -> None:
    model = pack(replace(made, out=tmp_path / "model", transformer=transformer), SilentReporter())
    document = DECODER | FEW | {"models": [str(model)], "block_out_channels": channels}
    recipe = write_recipe(tmp_path / "decoder.yaml", document)
    run = train_part(PartPlan(part="decoder", recipe=recipe, run=tmp_path / "run"), SilentReporter())
    plan = PackPlan(
        vae_recipe=made.vae_recipe,
        vae_run=run,
        text_recipe=made.text_recipe,
        text_run=None,
        base=model,
        transformer=transformer,
        out=tmp_path / "better",
    )
    better = pack(plan, SilentReporter())
    codecs = [
        load_vae(resolve_model(str(path)), device="cpu", dtype=torch.float32).module
        for path in (model, better)
    ]
    frames_PCHW = torch.rand(9, 3, 32, 32) * 2 - 1
    before, after = (CogVideoXVae(codec).encode_clips(frames_PCHW[None])[0] for codec in codecs)
    assert torch.allclose(before, after, atol=rounding, rtol=0)
    latents = torch.randn(1, CODEC["latent_channels"], 3, 4, 4)
    frames = [codec.decode(latents).sample for codec in codecs]
    assert not torch.allclose(*frames, atol=1e-3)


def test_the_scaling_factor_makes_latents_of_unit_variance(made: PackPlan, tmp_path: Path) -> None:
    out = pack(replace(made, out=tmp_path / "model"), SilentReporter())
    factor = json.loads((out / "vae" / "config.json").read_text())["scaling_factor"]
    assert factor not in (0.0, 1.0)
    assert factor > 0


def test_a_folder_without_a_transformer_holds_what_training_one_needs(made: PackPlan, tmp_path: Path) -> None:
    out = pack(replace(made, out=tmp_path / "model", classifier_run=None), SilentReporter())
    parts = {"vae", "text_encoder", "tokenizer", "scheduler"}
    assert {path.name for path in out.iterdir()} == parts | {"m2d.json", "model_index.json"}
    assert set(json.loads((out / "model_index.json").read_text())) == parts | {"_class_name"}
    with pytest.raises(CheckpointError, match="transformer: missing; the model folder is incomplete"):
        resolve_model(str(out))


def test_packing_names_no_place_of_this_machine(made: PackPlan, transformer: Path, tmp_path: Path) -> None:
    out = pack(replace(made, out=tmp_path / "model", transformer=transformer), SilentReporter())
    for path in out.rglob("*.json"):
        assert str(tmp_path.parent) not in path.read_text(), path


def test_packing_twice_gives_the_same_bytes(made: PackPlan, tmp_path: Path) -> None:
    plan = replace(made, out=tmp_path / "model")
    first = {path: path.read_bytes() for path in pack(plan, SilentReporter()).rglob("*") if path.is_file()}
    again = {path: path.read_bytes() for path in pack(plan, SilentReporter()).rglob("*") if path.is_file()}
    assert first == again
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]


@pytest.mark.parametrize("part", ["vae_run", "text_run", "classifier_run"])
def test_a_run_without_checkpoints_is_refused_and_nothing_is_left(
    part: str, made: PackPlan, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    plan = replace(made, out=tmp_path / "out" / "model", **{part: tmp_path / "empty"})
    with pytest.raises(CheckpointError, match=r"empty: no checkpoint that verifies; train it first"):
        pack(plan, SilentReporter())
    assert not any((tmp_path / "out").iterdir())


def test_a_damaged_checkpoint_is_never_packed(made: PackPlan, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made.vae_run, tmp_path / "codec"))
    for weights in run.rglob("ema.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="codec: no checkpoint that verifies"):
        pack(replace(made, out=tmp_path / "model", vae_run=run), SilentReporter())


def test_a_run_of_another_recipe_is_refused(made: PackPlan, tmp_path: Path) -> None:
    other = write_recipe(tmp_path / "text.yaml", TEXT | FEW | {"d_model": 24})
    with pytest.raises(CheckpointError, match="text: made by another recipe"):
        pack(replace(made, out=tmp_path / "model", text_recipe=other), SilentReporter())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_embed_dim": 24}, r"text_embed_dim is 24, but .*text_encoder/config\.json has d_model 16"),
        (
            {"in_channels": 8, "out_channels": 8},
            r"out_channels is 8, but .*vae/config\.json has latent_channels 4",
        ),
    ],
)
def test_a_transformer_of_another_codec_or_text_encoder_is_refused(
    changes: dict[str, int], message: str, made: PackPlan, tmp_path: Path
) -> None:
    foreign = write_transformer(tmp_path / "stage", **changes)
    with pytest.raises(CheckpointError, match=message):
        pack(replace(made, out=tmp_path / "model", transformer=foreign), SilentReporter())
    assert not (tmp_path / "model").exists()


def test_a_failed_packing_leaves_the_earlier_folder(made: PackPlan, tmp_path: Path) -> None:
    out = pack(replace(made, out=tmp_path / "model"), SilentReporter())
    with pytest.raises(CheckpointError, match="no checkpoint"):
        pack(replace(made, out=out, text_run=tmp_path), SilentReporter())
    assert (out / "m2d.json").exists()


def test_two_trainings_never_share_a_run_folder(made: PackPlan) -> None:
    plan = PartPlan(part="codec", recipe=made.vae_recipe, run=made.vae_run)
    with (
        hold(made.vae_run, what="training there"),
        pytest.raises(OutputBusy, match="is training there"),
    ):
        train_part(plan, SilentReporter())


def test_a_wrong_recipe_is_told_with_its_line_before_anything_starts(tmp_path: Path) -> None:
    recipe = tmp_path / "codec.yaml"
    lines = [f"{key}: {json.dumps(value)}" for key, value in (CODEC | {"num_frames": 5}).items()]
    recipe.write_text("\n".join(lines) + "\n")
    plan = PartPlan(part="codec", recipe=recipe, run=tmp_path / "run")
    with pytest.raises(RecipeError, match=r"codec.yaml:\d+:\d+: num_frames: 5 is not 8k\+1; use 1 or 9"):
        train_part(plan, SilentReporter())
    assert not (tmp_path / "run").exists()


def test_a_codec_starts_from_anothers_weights_and_refuses_other_channels(
    made: PackPlan, tmp_path: Path
) -> None:
    def plan(**changes: Any) -> PartPlan:
        document = CODEC | FEW | {"init": str(made.vae_run)} | changes
        return PartPlan(
            part="codec", recipe=write_recipe(tmp_path / "codec.yaml", document), run=tmp_path / "run"
        )

    with pytest.raises(CheckpointError, match=r"init: .*codec: made with other channels"):
        train_part(plan(latent_channels=8), SilentReporter())
    assert find_checkpoint(train_part(plan(steps=1), SilentReporter())).path is not None


def test_a_codec_does_not_start_from_a_decoder_without_its_encoder(made: PackPlan, tmp_path: Path) -> None:
    def plan(init: Path, run: str, **changes: Any) -> PartPlan:
        recipe = write_recipe(tmp_path / "codec.yaml", CODEC | {"steps": 1, "init": str(init)} | changes)
        return PartPlan(part="codec", recipe=recipe, run=tmp_path / run)

    assert made.vae_run is not None
    alone = train_part(plan(made.vae_run, "alone", freeze_encoder=True), SilentReporter())
    with pytest.raises(CheckpointError, match="alone: its decoder alone was trained"):
        train_part(plan(alone, "next"), SilentReporter())


def test_the_shipped_recipes_fit_each_other() -> None:
    folder = Path(__file__).parents[3] / "recipes" / "training"
    base = load_document(folder / "puppet-base.yaml", TrainingRecipe)
    text = load_document(folder / "puppet-text.yaml", TextEncoderRecipe)
    assert base.transformer is not None
    assert text.max_text_tokens == base.transformer.max_text_tokens
    for helper in (
        load_document(folder / "puppet-codec.yaml", VaeRecipe),
        load_document(folder / "puppet-reader.yaml", ClassifierRecipe),
    ):
        size = (helper.num_frames, helper.height, helper.width)
        assert size == (base.video.num_frames, base.video.height, base.video.width)


def test_parts_without_a_run_come_from_the_base(made: PackPlan, tmp_path: Path) -> None:
    base = pack(replace(made, out=tmp_path / "base"), SilentReporter())
    again = pack(replace(made, out=tmp_path / "again", base=base, text_run=None), SilentReporter())
    for name in ("text_encoder/model.safetensors", "tokenizer/tokenizer.json"):
        assert (again / name).read_bytes() == (base / name).read_bytes()


def test_a_codec_with_its_base_s_encoder_keeps_the_scale_of_the_latents(
    made: PackPlan, tmp_path: Path
) -> None:
    base = pack(replace(made, out=tmp_path / "base"), SilentReporter())
    config = base / "vae" / "config.json"
    # As if another version of the world had measured it.
    changed = json.loads(config.read_text()) | {"scaling_factor": 0.5}
    config.write_text(json.dumps(changed))
    again = pack(replace(made, out=tmp_path / "again", base=base), SilentReporter())
    assert json.loads((again / "vae" / "config.json").read_text())["scaling_factor"] == 0.5


def test_without_a_base_every_part_needs_a_run(made: PackPlan, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--text: missing; give a run folder, or --base"):
        pack(replace(made, out=tmp_path / "model", text_run=None), SilentReporter())


def test_a_folder_packed_on_itself_keeps_its_reader(made: PackPlan, tmp_path: Path) -> None:
    out = pack(replace(made, out=tmp_path / "model"), SilentReporter())
    before = (out / CLASSIFIER_FILE).read_bytes()
    pack(replace(made, out=out, base=out, vae_run=None, text_run=None, classifier_run=None), SilentReporter())
    assert (out / CLASSIFIER_FILE).read_bytes() == before


def test_what_a_training_changed_is_added_to_another_transformer(
    made: PackPlan, transformer: Path, tmp_path: Path
) -> None:
    trained = tmp_path / "trained"
    shutil.copytree(transformer, trained)
    file = trained / "transformer/diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    name = next(iter(weights))
    save_file({**weights, name: weights[name] + 0.5}, file)
    plan = replace(made, transformer=transformer)
    plain = pack(replace(plan, out=tmp_path / "plain"), SilentReporter())
    changed = pack(replace(plan, out=tmp_path / "changed", change=(transformer, trained)), SilentReporter())
    before, after = (load_transformer(each, device="cpu", dtype=torch.float32) for each in (plain, changed))
    moved = {key: (value - before.state_dict()[key]) for key, value in after.state_dict().items()}
    assert torch.allclose(moved.pop(name), torch.tensor(0.5), atol=1e-3)
    assert not any(each.any() for each in moved.values())


def test_a_change_of_other_tensors_is_refused(made: PackPlan, transformer: Path, tmp_path: Path) -> None:
    other = tmp_path / "other/transformer"
    other.mkdir(parents=True)
    save_file({"weight": torch.zeros(2)}, other / "diffusion_pytorch_model.safetensors")
    plan = replace(made, out=tmp_path / "model", transformer=transformer, change=(transformer, other.parent))
    with pytest.raises(CheckpointError, match="does not have the tensors of the one to be changed"):
        pack(plan, SilentReporter())
