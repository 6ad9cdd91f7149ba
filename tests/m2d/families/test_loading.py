import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel
from safetensors.torch import load_file, save_file
from transformers import T5EncoderModel

from m2d.errors import CheckpointError
from m2d.families.family import TextEncoder
from m2d.families.loading import load_scheduler, load_text, load_tokenizer, load_transformer, load_vae
from m2d.families.saving import save_model_folder, write_component, write_settings
from m2d.families.source import ModelSource, resolve_model, settings_of
from m2d.model.settings import ModelSettings
from tests.m2d.model.tiny_model import build_tiny_model
from tests.m2d.odd_files import ODD_FILES, put

WEIGHTS = "diffusion_pytorch_model.safetensors"
TRANSFORMER = f"transformer/{WEIGHTS}"
LAST_SHARD = "diffusion_pytorch_model-00002-of-00002.safetensors"
SETTINGS = ModelSettings(
    num_scenes=2,
    default_num_frames=5,
    default_height=16,
    default_width=24,
    default_fps=12,
    world="puppet",
    mask="causal",
)


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def edit_json(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def edit_weights(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


def load_all(source: ModelSource) -> tuple[torch.nn.Module, torch.nn.Module, TextEncoder]:
    return (
        load_transformer(source, device="cpu", dtype=torch.float32),
        load_vae(source, device="cpu", dtype=torch.float32).module,
        load_text(source, device="cpu", dtype=torch.float32),
    )


def test_a_folder_round_trips(tiny_folder: Path) -> None:
    source = resolve_model(str(tiny_folder))
    transformer, codec, text = load_all(source)
    theirs = (
        CogVideoXTransformer3DModel.from_pretrained(tiny_folder / "transformer"),
        AutoencoderKLCogVideoX.from_pretrained(tiny_folder / "vae"),
        T5EncoderModel.from_pretrained(tiny_folder / "text_encoder"),
    )
    for ours, other in zip((transformer, codec, text.model), theirs, strict=True):
        assert not ours.training
        assert all(parameter.device.type == "cpu" for parameter in ours.parameters())
        torch.testing.assert_close(dict(ours.state_dict()), dict(other.state_dict()), rtol=0, atol=0)
    assert load_scheduler(source).config.prediction_type == "v_prediction"


def test_geometry_comes_from_the_configs_and_defaults_from_m2d_json(tiny_folder: Path) -> None:
    source = resolve_model(str(tiny_folder))
    geometry = source.geometry
    assert (geometry.spatial_compression, geometry.temporal_compression, geometry.patch_size) == (4, 4, 2)
    assert (geometry.latent_channels, geometry.max_text_tokens) == (4, 40)
    assert (geometry.default_num_frames, geometry.default_height, geometry.default_width) == (9, 32, 32)
    assert (geometry.default_fps, geometry.num_scenes, source.is_puppet) == (8, 3, False)


def test_sampling_defaults_come_from_m2d_json_and_survive_saving(folder: Path, tmp_path: Path) -> None:
    own = {"num_inference_steps": 12, "guidance_scale": 3.5, "scheduler": "unipc", "dynamic_guidance": True}
    edit_json(folder / "m2d.json", sampling=own)
    assert resolve_model(str(folder)).sampling.model_dump() == own
    write_settings(tmp_path, settings_of(folder))
    assert json.loads((tmp_path / "m2d.json").read_text())["sampling"] == own


def test_m2d_json_says_whether_scenes_start_from_images(folder: Path, tmp_path: Path) -> None:
    before = resolve_model(str(folder))
    edit_json(folder / "m2d.json", starts_from_images=True)
    after = resolve_model(str(folder))
    assert (before.geometry.starts_from_images, after.geometry.starts_from_images) == (False, True)
    # Given first frames are denoised in another way, so a run of one does not resume with the other.
    assert before.denoising_digest(with_vae=True) != after.denoising_digest(with_vae=True)
    write_settings(tmp_path, settings_of(folder))
    assert json.loads((tmp_path / "m2d.json").read_text())["starts_from_images"] is True
    edit_json(folder / "m2d.json", starts_from_images="yes")
    with pytest.raises(CheckpointError, match="starts_from_images: 'yes' is neither true nor false"):
        resolve_model(str(folder))


def test_a_puppet_model_without_sampling_defaults_samples_like_the_embedded_ones(folder: Path) -> None:
    edit_json(folder / "m2d.json", world="puppet")
    assert resolve_model(str(folder)).sampling == resolve_model("builtin:puppet").sampling


def test_without_m2d_json_the_defaults_are_cogvideox_s(folder: Path) -> None:
    (folder / "m2d.json").unlink()
    geometry = resolve_model(str(folder)).geometry
    assert (geometry.default_num_frames, geometry.default_height, geometry.default_width) == (9, 32, 32)
    assert (geometry.default_fps, geometry.num_scenes) == (8, 3)


def test_the_digest_follows_what_computes_and_nothing_else(folder: Path) -> None:
    before = resolve_model(str(folder)).digest
    edit_json(folder / "m2d.json", default_fps=16)
    (folder / "README.md").write_text("about")
    assert resolve_model(str(folder)).digest == before
    edit_json(folder / "vae" / "config.json", scaling_factor=0.9)
    assert resolve_model(str(folder)).digest != before


def test_half_precision_weights_load_into_any_dtype_without_a_warning(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_component(folder, "transformer", load_all(resolve_model(str(folder)))[0], dtype=torch.float16)
    assert {tensor.dtype for tensor in load_file(folder / TRANSFORMER).values()} == {torch.float16}
    source = resolve_model(str(folder))
    for dtype in (torch.float32, torch.bfloat16):
        assert load_transformer(source, device="cpu", dtype=dtype).proj_out.weight.dtype == dtype
    assert not caplog.records


def test_weights_that_are_read_in_portions_are_the_same(
    folder: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard(folder)
    # Less than the largest tensor, which is read alone.
    monkeypatch.setattr("m2d.model.checkpoint._PORTION", 500)
    found = load_transformer(resolve_model(str(folder)), device="cpu", dtype=torch.bfloat16).state_dict()
    expected = {
        name: value.to(torch.bfloat16) for name, value in load_file(tiny_folder / TRANSFORMER).items()
    }
    torch.testing.assert_close(dict(found), expected, rtol=0, atol=0)


def test_half_precision_text_encoders_keep_what_overflows_in_float32(tiny_folder: Path) -> None:
    text = load_text(resolve_model(str(tiny_folder)), device="cpu", dtype=torch.float16)
    stored = load_file(tiny_folder / "text_encoder" / "model.safetensors")
    kept = [name for name in stored if name.endswith(".wo.weight")]
    assert kept
    for name in kept:
        # Unrounded: what overflows half precision would be lost on the way.
        assert torch.equal(text.model.state_dict()[name], stored[name])
    dtypes = {name.split(".")[-2]: parameter.dtype for name, parameter in text.model.named_parameters()}
    assert dtypes["wo"] == torch.float32
    assert dtypes["wi_0"] == dtypes["shared"] == torch.float16
    assert text.encode(["Actor1 waves."]).isfinite().all()


def test_a_saved_folder_opens_in_m2d_and_in_diffusers(tiny_folder: Path, tmp_path: Path) -> None:
    transformer, codec, text = load_all(resolve_model(str(tiny_folder)))
    base, target = tmp_path / "base", tmp_path / "target"
    shutil.copytree(tiny_folder, base, ignore=shutil.ignore_patterns("transformer", "*.json.bak"))
    (base / "vae" / "evil.py").write_text("raise SystemExit")
    write_component(base, "vae", codec)
    write_component(base, "text_encoder", text.model)
    save_model_folder(target, base=base, transformer=transformer, settings=SETTINGS, dtype=torch.float32)
    source = resolve_model(str(target))
    assert (source.geometry.num_scenes, source.geometry.default_fps, source.is_puppet) == (2, 12, True)
    assert source.mask == "causal"
    for ours, before in zip(load_all(source)[:2], (transformer, codec), strict=True):
        torch.testing.assert_close(dict(ours.state_dict()), dict(before.state_dict()), rtol=0, atol=0)
    prompt = ["Actor1 waves."]
    torch.testing.assert_close(load_all(source)[2].encode(prompt), text.encode(prompt), rtol=0, atol=0)
    assert not list(target.rglob("*.py"))
    assert str(tmp_path) not in "".join(path.read_text() for path in target.rglob("*.json"))
    assert CogVideoXTransformer3DModel.from_pretrained(target / "transformer").config.num_layers == 2


def test_components_load_from_a_folder_without_a_transformer(folder: Path) -> None:
    shutil.rmtree(folder / "transformer")
    load_vae(folder, device="cpu", dtype=torch.float32)
    assert (
        load_text(folder, device="cpu", dtype=torch.float32, max_tokens=12).encode(["waves"]).shape[1] == 12
    )


def shard(folder: Path) -> Path:
    """Split the transformer's weights over two files with an index."""
    weights = load_file(folder / TRANSFORMER)
    (folder / TRANSFORMER).unlink()
    names = sorted(weights)
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"diffusion_pytorch_model-{number:05}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, folder / "transformer" / file)
        weight_map |= dict.fromkeys(part, file)
    index = folder / "transformer" / f"{WEIGHTS}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def test_sharded_weights_load_like_whole_ones(folder: Path, tiny_folder: Path) -> None:
    shard(folder)
    ours = load_transformer(resolve_model(str(folder)), device="cpu", dtype=torch.float32)
    torch.testing.assert_close(dict(ours.state_dict()), load_file(tiny_folder / TRANSFORMER), rtol=0, atol=0)


def test_the_official_configs_own_key_and_class_are_accepted(folder: Path) -> None:
    edit_json(
        folder / "transformer" / "config.json",
        _class_name="MultiPromptCogVideoXTransformer3DModel",
        attn_msk_version=2,
    )
    load_transformer(resolve_model(str(folder)), device="cpu", dtype=torch.float32)


def test_code_in_a_folder_is_never_run(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    code = f"from pathlib import Path; Path({str(marker)!r}).touch()"
    for name in ("transformer/modeling.py", "vae/__init__.py", "tokenizer/tokenization.py", "pipeline.py"):
        (folder / name).write_text(code)
    hook = {"AutoModel": "modeling.Model", "AutoConfig": "modeling.Config"}
    edit_json(
        folder / "text_encoder" / "config.json", auto_map=hook, _attn_implementation_internal="someone/kernel"
    )
    load_all(resolve_model(str(folder)))
    assert not marker.exists()


def test_a_snapshot_of_links_as_the_hub_s_cache_keeps_it_loads(folder: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    for number, path in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        link = snapshot / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        path.rename(blobs / str(number))
        link.symlink_to(os.path.relpath(blobs / str(number), link.parent))
    load_all(resolve_model(str(snapshot)))


def break_link(folder: Path) -> None:
    outside = folder.parent / "outside.safetensors"
    (folder / TRANSFORMER).rename(outside)
    (folder / TRANSFORMER).symlink_to(outside)


def only_pickles(folder: Path) -> None:
    (folder / TRANSFORMER).unlink()
    (folder / "transformer" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04")


def truncate(folder: Path) -> None:
    data = (folder / TRANSFORMER).read_bytes()
    (folder / TRANSFORMER).write_bytes(data[:-100])


def truncate_one_shard(folder: Path) -> None:
    index = shard(folder)
    file = index.parent / LAST_SHARD
    file.write_bytes(file.read_bytes()[:-1])


def remove_one_shard(folder: Path) -> None:
    (shard(folder).parent / LAST_SHARD).unlink()


def shard_elsewhere(folder: Path) -> None:
    index = shard(folder)
    edit_json(index, weight_map={"a": "../vae/diffusion_pytorch_model.safetensors"})


def index_of_other_weights(folder: Path) -> None:
    index = shard(folder)
    weight_map = json.loads(index.read_text())["weight_map"]
    edit_json(index, weight_map=dict.fromkeys(weight_map, sorted(set(weight_map.values()))[0]))


LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
BROKEN: list[tuple[Callable[[Path], object], str]] = [
    (lambda f: shutil.rmtree(f / "vae"), r"model/vae: missing; .* get it again"),
    (lambda f: shutil.rmtree(f / "tokenizer"), r"model/tokenizer: missing"),
    (lambda f: (f / "model_index.json").unlink(), r"not a model folder, without model_index.json"),
    (lambda f: (f / "tokenizer" / "tokenizer.json").unlink(), r"neither tokenizer.json nor spiece.model"),
    (lambda f: (f / "vae" / "config.json").unlink(), r"vae/config.json: missing"),
    (lambda f: (f / "vae" / "config.json").write_text("{"), r"vae/config.json: not valid JSON"),
    (lambda f: (f / "vae" / "config.json").write_text("[1]"), r"vae/config.json: holds a list"),
    (lambda f: (f / "vae" / "config.json").write_text("[" * 100_000), r"vae/config.json: not valid JSON"),
    (lambda f: (f / TRANSFORMER).unlink(), rf"{TRANSFORMER}: missing"),
    (
        lambda f: (f / TRANSFORMER).write_bytes(b""),
        r"truncated or not a safetensors file: a header of 0 bytes in a file of 0; get it again",
    ),
    (
        lambda f: (f / TRANSFORMER).write_bytes(b"\xff" * 64),
        r"truncated or not a safetensors file: a header of 18,446,.* bytes in a file of 64",
    ),
    (
        lambda f: (f / TRANSFORMER).write_bytes(b"\x02" + b"\0" * 7 + b"[]"),
        r"not a safetensors file: its header is not a JSON object",
    ),
    (
        lambda f: edit_json(f / "model_index.json", _class_name="WanPipeline"),
        r"model_index.json: _class_name: 'WanPipeline' is not supported; allowed: CogVideoXPipeline",
    ),
    (
        lambda f: (f / TRANSFORMER).write_text(LFS_POINTER),
        rf"{TRANSFORMER}: .*a Git LFS pointer, .*run `git lfs pull`",
    ),
    (
        lambda f: (f / "vae" / "config.json").write_text(LFS_POINTER),
        r"vae/config.json: cannot be read: it is a Git LFS pointer",
    ),
    (truncate, rf"{TRANSFORMER}: .*truncated or not .*: its tensors take .* bytes, the file holds"),
    (truncate_one_shard, r"00002-of-00002.safetensors: .*truncated or not .*: its tensors take"),
    (remove_one_shard, r"00002-of-00002.safetensors: missing"),
    (shard_elsewhere, r"'../vae/.*' is not the name of a safetensors file beside it"),
    (index_of_other_weights, r"index.json: does not fit its files in .* more; get it again"),
    (only_pickles, r"diffusion_pytorch_model.bin, a pickle that m2d never opens"),
    (break_link, rf"{TRANSFORMER}: a link that leads out of the model folder"),
    (
        lambda f: edit_weights(f / TRANSFORMER, lambda w: w.update({"x": torch.zeros(2, dtype=torch.int8)})),
        r"weights of type I8, which are quantized; m2d reads F16, BF16, F32, F64",
    ),
    (
        lambda f: edit_json(f / "transformer" / "config.json", _class_name="WanTransformer3DModel"),
        r"transformer/config.json: class 'WanTransformer3DModel' is not supported; allowed: CogVideoX",
    ),
    (
        lambda f: edit_json(f / "text_encoder" / "config.json", architectures=["EvilModel"]),
        r"text_encoder/config.json: class 'EvilModel' is not supported; allowed: T5EncoderModel",
    ),
    (
        lambda f: edit_json(f / "scheduler" / "scheduler_config.json", _class_name="os.system"),
        r"scheduler_config.json: class 'os.system' is not supported; allowed: CogVideoXDDIMScheduler",
    ),
    (
        lambda f: edit_json(
            f / "model_index.json", transformer=["modeling", "Mine"], safety=["os", "system"]
        ),
        r"model_index.json: unsupported: safety \(system\), transformer \(Mine\)",
    ),
    (
        lambda f: edit_json(f / "transformer" / "config.json", quantization_config={"bits": 4}),
        r"quantized weights are not supported",
    ),
    (
        lambda f: edit_json(f / "transformer" / "config.json", patch_size=...),
        r"transformer/config.json: patch_size: missing; it must be a whole number from 1",
    ),
    (
        lambda f: (f / TRANSFORMER).rename(f / "transformer" / "diffusion_pytorch_model.fp16.safetensors"),
        r"holds diffusion_pytorch_model.fp16.safetensors, of the variant 'fp16', and no diffusion_pytorch",
    ),
    (
        lambda f: edit_json(f / "transformer" / "config.json", patch_size_t=2),
        r"cannot make its own default size: num_frames: 9 is not 16k\+1; use 1 or 17",
    ),
    (
        lambda f: edit_json(f / "transformer" / "config.json", in_channels=12),
        r"in_channels is 12; m2d runs models with 4 \(text-to-video\) or 8 \(image-to-video",
    ),
    (
        lambda f: edit_json(f / "vae" / "config.json", block_out_channels="8, 8"),
        r"block_out_channels: '8, 8' is not a list",
    ),
    (lambda f: edit_json(f / "m2d.json", fps=8), r"m2d.json: unknown fps; allowed: default_fps"),
    (lambda f: edit_json(f / "m2d.json", num_scenes="3"), r"m2d.json: num_scenes: '3'; it must be"),
    (
        lambda f: edit_json(f / "m2d.json", world="moon"),
        r"world: 'moon' is unknown; allowed: 'puppet' or null",
    ),
    (
        lambda f: edit_json(f / "m2d.json", sampling={"guidance_scale": 2.0}),
        r"m2d.json: num_inference_steps: ",
    ),
    (
        lambda f: edit_json(
            f / "m2d.json",
            sampling={"num_inference_steps": 25, "guidance_scale": 2.0, "scheduler": "heun"},
        ),
        r"m2d.json: scheduler: ",
    ),
    (
        lambda f: edit_json(f / "m2d.json", mask="circular"),
        r"m2d.json: mask: 'circular' is not known; use one of",
    ),
    (
        lambda f: edit_json(f / "m2d.json", default_num_frames=8),
        r"its own default size: num_frames: 8 is not 4k\+1",
    ),
]


@pytest.mark.parametrize(("damage", "message"), BROKEN, ids=[message for _, message in BROKEN])
def test_a_broken_folder_is_refused_before_anything_is_loaded(
    folder: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(folder)
    with pytest.raises(CheckpointError, match=message):
        resolve_model(str(folder))


def test_every_problem_is_reported_at_once(folder: Path) -> None:
    shutil.rmtree(folder / "scheduler")
    truncate(folder)
    (folder / "vae" / "config.json").write_text("")
    with pytest.raises(CheckpointError, match="truncated") as caught:
        resolve_model(str(folder))
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0].removeprefix(f"{folder}/") for line in lines] == [
        TRANSFORMER,
        "vae/config.json",
        "scheduler",
    ]


def compiled(weights: dict[str, torch.Tensor]) -> None:
    for name in list(weights):
        weights[f"_orig_mod.{name}"] = weights.pop(name)


MISFITS: list[tuple[Callable[[Path], object], str]] = [
    (
        lambda f: edit_weights(f / TRANSFORMER, lambda w: w.pop("proj_out.bias")),
        r"do not fit config.json: missing: proj_out.bias",
    ),
    (
        lambda f: edit_weights(f / TRANSFORMER, lambda w: w.update(extra=torch.zeros(1))),
        r"not of this model: extra",
    ),
    (
        lambda f: edit_weights(f / TRANSFORMER, lambda w: w.update({"proj_out.bias": torch.zeros(3)})),
        r"of the wrong shape: proj_out.bias \[3\] instead of \[16\]",
    ),
    (
        lambda f: edit_weights(f / TRANSFORMER, compiled),
        r"the names of the weights begin with _orig_mod., as those of a compiled model",
    ),
    (
        lambda f: edit_json(f / "transformer" / "config.json", num_layers=3),
        r"missing: transformer_blocks.2.* and \d+ more",
    ),
]


@pytest.mark.parametrize(("damage", "message"), MISFITS, ids=[message for _, message in MISFITS])
def test_weights_that_are_not_the_config_s_are_never_loaded_in_part(
    folder: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(folder)
    with pytest.raises(CheckpointError, match=message):
        resolve_model(str(folder))
    # Training loads single parts of a folder.
    with pytest.raises(CheckpointError, match=message):
        load_transformer(folder, device="cpu", dtype=torch.float32)


def test_a_variant_of_the_transformer_is_never_loaded(folder: Path) -> None:
    edit_json(folder / "transformer" / "config.json", sparse_attention=True)
    source = resolve_model(str(folder))
    with pytest.raises(
        CheckpointError, match="unknown sparse_attention; this is a variant that m2d does not"
    ):
        load_transformer(source, device="cpu", dtype=torch.float32)


def test_a_text_encoder_that_does_not_fit_its_config_is_refused(folder: Path) -> None:
    edit_json(folder / "text_encoder" / "config.json", vocab_size=70)
    with pytest.raises(CheckpointError, match=r"shared.weight \[\d+, 16\] instead of \[70, 16\]"):
        resolve_model(str(folder))
    with pytest.raises(CheckpointError, match=r"shared.weight \[\d+, 16\] instead of \[70, 16\]"):
        load_text(folder, device="cpu", dtype=torch.float32, max_tokens=40)
    edit_json(folder / "text_encoder" / "config.json", vocab_size="many")
    with pytest.raises(CheckpointError, match="vocab_size: 'many' must be a whole number"):
        load_text(resolve_model(str(folder)), device="cpu", dtype=torch.float32)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "nowhere",
            r"'nowhere': there is no such folder; give a folder in diffusers' layout, the id of a model "
            r"on a hub, or builtin:puppet-large or builtin:puppet$",
        ),
        ("zai-org/CogVideoX-5b", r"there is no such folder, and the model of the hub is not here$"),
        (
            "builtin:muppet",
            r"'builtin:muppet' is unknown; the built-in models are builtin:puppet-large, builtin:puppet",
        ),
        ("https://example.org/model", r"there is no such folder"),
        ("a\0b", r"there is no such folder"),
    ],
)
def test_a_name_that_is_no_folder_is_explained(name: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        resolve_model(name)


def test_a_file_in_place_of_a_folder_is_explained(tiny_folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"safetensors: a file, where a model folder is needed"):
        resolve_model(str(tiny_folder / TRANSFORMER))


def test_a_model_in_the_home_folder_and_one_in_the_hub_s_cache_are_found(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_folder, tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_model("~/here").path == tmp_path / "here"

    # The cache's layout: files of a snapshot are links to blobs that are named by their content.
    repo = tmp_path / "hub" / "models--anyone--tiny"
    commit = repo / "snapshots" / ("0" * 40)
    (repo / "blobs").mkdir(parents=True)
    for number, file in enumerate(path for path in sorted(tiny_folder.rglob("*")) if path.is_file()):
        shutil.copyfile(file, repo / "blobs" / str(number))
        link = commit / file.relative_to(tiny_folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(repo / "blobs" / str(number))
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert resolve_model("anyone/tiny").path == commit
    assert resolve_model(f"anyone/tiny@{'0' * 40}").digest == resolve_model(str(tiny_folder)).digest
    with pytest.raises(CheckpointError, match="there is no such folder"):
        resolve_model("anyone/tiny@other")


def test_the_tiny_model_is_the_same_every_time(tiny_folder: Path, tmp_path: Path) -> None:
    again = build_tiny_model(tmp_path / "again")
    assert resolve_model(str(again)).digest == resolve_model(str(tiny_folder)).digest


UNBOUNDED: list[tuple[str, dict[str, Any], str]] = [
    ("transformer/config.json", {"num_layers": 10**18}, "num_layers: 1000000000000000000 must be a whole"),
    ("transformer/config.json", {"num_layers": 250}, "of more than .* parameters, the weights hold"),
    ("transformer/config.json", {"num_attention_heads": 0}, "num_attention_heads: 0 must be a whole number"),
    (
        "transformer/config.json",
        {"use_rotary_positional_embeddings": False, "sample_frames": 4001, "sample_height": 800},
        "sample_frames, sample_height and sample_width need a table of",
    ),
    ("vae/config.json", {"block_out_channels": [16384] * 3}, "of more than .* parameters"),
    ("vae/config.json", {"scaling_factor": float("nan")}, "not valid JSON"),
    ("vae/config.json", {"layers_per_block": "1"}, "layers_per_block: '1' must be a whole number"),
    ("text_encoder/config.json", {"num_layers": 200, "d_ff": 60_000}, "of more than .* parameters"),
    ("text_encoder/config.json", {"feed_forward_proj": 3}, "feed_forward_proj: 3 must be one of"),
    ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**18}, "num_train_timesteps: 1000000"),
    ("m2d.json", {"num_scenes": 10**18}, "num_scenes: 1000000000000000000; it must be"),
    ("m2d.json", {"default_width": 10**7}, "default_width: 10000000; it must be"),
]


@pytest.mark.parametrize(("name", "entries", "message"), UNBOUNDED)
def test_a_config_that_would_take_endless_work_is_rejected_by_its_file_and_key(
    folder: Path, name: str, entries: dict[str, Any], message: str
) -> None:
    edit_json(folder / name, **entries)
    with pytest.raises(CheckpointError, match=rf"{name}: .*{message}"):
        resolve_model(str(folder))


REPLACE = {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}
TOKENIZERS: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (
        lambda t: t.update(normalizer={"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}),
        "Regex",
    ),
    (lambda t: t.update(normalizer={"type": "Nothing"}), "not a tokenizer"),
    (lambda t: t["model"].update(dropout=0.5), "dropout: 0.5"),
    (lambda t: t["model"]["vocab"].update({"far": 10**6}), "has tokens 0 to 1000000, but .* vocab_size"),
    (lambda t: t["model"].update(vocab={"a": -1}), "not a tokenizer"),
    (lambda t: t.clear(), "not a tokenizer"),
]


@pytest.mark.parametrize(("change", "message"), TOKENIZERS)
def test_a_tokenizer_that_could_blow_up_is_rejected(
    folder: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    path = folder / "tokenizer" / "tokenizer.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=rf"tokenizer.json: .*{message}"):
        load_tokenizer(resolve_model(str(folder)))


@pytest.mark.parametrize("kind", ODD_FILES)
@pytest.mark.parametrize(
    "name", ["model_index.json", "m2d.json", "vae/config.json", TRANSFORMER, "tokenizer/tokenizer.json"]
)
def test_what_is_no_regular_file_is_named(folder: Path, name: str, kind: str) -> None:
    put(kind, folder / name)
    with pytest.raises(CheckpointError, match=rf"{name}: (a link that leads out|not a regular file)"):
        resolve_model(str(folder))
