"""Every memory mode gives the same latents, and quantized weights nearly the same. On a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from m2d import Story, StoryPipeline
from m2d.errors import CheckpointError, InputError, RecipeError
from m2d.families.cogvideox import family
from m2d.families.registry import NEW_MODELS, known_model
from m2d.families.source import resolve_model
from m2d.pipeline.observer import Observer
from m2d.pipeline.pipeline_vae import VaeUse
from m2d.pipeline.planning import plan_for_model
from m2d.pipeline.scenes import ScenePipeline
from m2d.placement.modes import MEMORY_MODES
from m2d.placement.offload import is_empty
from m2d.progress import Clock, SilentReporter
from m2d.recipe.overrides import Overrides
from m2d.registry import get_backend
from m2d.tasks.models import make_random

SCENES = ("a red hat", "a blue wall")
VIDEO = {"height": 48, "width": 80, "num_frames": 9}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name in ("cogvideox-5b", "cogvideox-5b-i2v"):
        make_random(name, folder / name, is_tiny=True)
    Image.fromarray(np.arange(48 * 80 * 3, dtype=np.uint32).reshape(48, 80, 3).astype(np.uint8)).save(
        folder / "first.png"
    )
    return folder


def latents(folder: Path, **options: Any) -> torch.Tensor:
    scenes: list[Any] = list(SCENES)
    if folder.name.endswith("i2v"):
        picture = {"image": str(folder.parent / "first.png")}
        scenes = [{"prompt": SCENES[0], **picture}, {"prompt": SCENES[1], "join": "continue"}]
    story = Story(title="Two", scenes=scenes, sampling={"num_inference_steps": 2}, video=VIDEO)
    pipeline = StoryPipeline.from_pretrained(folder, device="cpu", **options)
    return torch.cat(pipeline(story).latents)


@pytest.fixture(scope="module")
def plain(models: Path) -> dict[str, torch.Tensor]:
    return {name: latents(models / name) for name in ("cogvideox-5b", "cogvideox-5b-i2v")}


@pytest.mark.parametrize("mode", MEMORY_MODES[1:])
@pytest.mark.parametrize("name", ["cogvideox-5b", "cogvideox-5b-i2v"])
def test_a_memory_mode_changes_no_latent(models: Path, plain: Any, name: str, mode: Any) -> None:
    torch.testing.assert_close(latents(models / name, memory=mode), plain[name], rtol=0, atol=0)


# One step of an 8-bit grid in 127, or of an 8-bit float in 16, as a share of the largest weight of a row.
@pytest.mark.parametrize(("kind", "tolerance"), [("int8", 1 / 127), ("fp8", 1 / 16)])
@pytest.mark.parametrize("mode", ["full", "group-offload"])
def test_quantized_weights_give_nearly_the_same(
    models: Path, plain: Any, kind: str, tolerance: float, mode: Any
) -> None:
    pytest.importorskip("torchao")
    found, expected = latents(models / "cogvideox-5b", quantize=kind, memory=mode), plain["cogvideox-5b"]
    assert not torch.equal(found, expected)
    assert (found - expected).norm() <= tolerance * expected.norm()


def write_gguf(folder: Path, path: Path, *, skip: str = "") -> Path:
    gguf = pytest.importorskip("gguf")
    from m2d.model.checkpoint import load_tensors

    writer = gguf.GGUFWriter(path, "cogvideox")
    (weights,) = (folder / "transformer").glob("*.safetensors")
    for name, tensor in load_tensors(weights).items():
        if name == skip:
            continue
        values = tensor.float().numpy()
        kind = gguf.GGMLQuantizationType.F32
        if "transformer_blocks" in name and values.ndim == 2 and values.shape[1] % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
            values = gguf.quants.quantize(values, kind)
        writer.add_tensor(name, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_gives_nearly_the_same(models: Path, plain: Any, tmp_path: Path) -> None:
    path = write_gguf(models / "cogvideox-5b", tmp_path / "q8.gguf")
    found, expected = latents(models / "cogvideox-5b", quantize=str(path)), plain["cogvideox-5b"]
    assert not torch.equal(found, expected)
    assert (found - expected).norm() <= expected.norm() / 127


def test_a_gguf_file_of_another_model_is_named(models: Path, tmp_path: Path) -> None:
    path = write_gguf(models / "cogvideox-5b", tmp_path / "less.gguf", skip="proj_out.weight")
    with pytest.raises(RecipeError, match=r"less.gguf: is for another model: missing: proj_out.weight"):
        latents(models / "cogvideox-5b", quantize=str(path))
    with pytest.raises(RecipeError, match=r"another model: .*of the wrong shape: patch_embed.proj.weight"):
        latents(models / "cogvideox-5b-i2v", quantize=str(path))


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF" + b"\xff" * 60, b"no such format" * 9])
def test_a_corrupt_gguf_file_is_refused(models: Path, tmp_path: Path, content: bytes) -> None:
    pytest.importorskip("gguf")
    (tmp_path / "bad.gguf").write_bytes(content)
    with pytest.raises((RecipeError, CheckpointError), match=r"bad.gguf: is no GGUF file, or corrupt"):
        latents(models / "cogvideox-5b", quantize=str(tmp_path / "bad.gguf"))


def test_the_compile_backend_names_its_modes(models: Path) -> None:
    with pytest.raises(InputError, match="memory: compile has no mode sequential; it has full, model-off"):
        latents(models / "cogvideox-5b", backend="compile", memory="sequential")


def bytes_of_5b() -> dict[str, int]:
    """Sizes of CogVideoX-5B's large parts in 16 bits, by the class of each, counted on the meta device."""
    known = known_model("cogvideox-5b")
    assert known is not None
    text, transformer, vae = (
        NEW_MODELS.empty_part(name, config)
        for name, config in (
            ("text_encoder", known.text_encoder),
            ("transformer", known.transformer),
            ("vae", known.vae),
        )
    )
    return {
        type(part).__name__: sum(2 * weight.numel() for weight in part.parameters())
        for part in (text, transformer, vae)
    }


@pytest.mark.parametrize("mode", ["full", "model-offload"])
def test_of_two_large_parts_one_at_most_has_weights(
    models: Path, monkeypatch: pytest.MonkeyPatch, mode: Any
) -> None:
    """The same run of 5B would hold its largest part and the VAE at most: 10.8 GiB of 19.7."""
    held: list[torch.nn.Module] = []
    sizes, seen = bytes_of_5b(), [0]

    def look() -> None:
        seen.append(sum(sizes[type(part).__name__] for part in held if not is_empty(part)))

    def watched(model: Any, *args: Any, **options: Any) -> Any:
        loaded = original(model, *args, **options)
        held.append(loaded)
        look()
        return loaded

    original = family.load_weights
    monkeypatch.setattr(family, "load_weights", watched)
    source = resolve_model(str(models / "cogvideox-5b"))
    story = Story(
        title="Two",
        scenes=[SCENES[0], {"prompt": "the hat jumps", "join": "continue"}],
        sampling={"num_inference_steps": 1},
        video=VIDEO,
    )
    plan = plan_for_model(story, source, overrides=Overrides(memory=mode))
    pipeline = ScenePipeline(
        source, get_backend("eager"), device="cpu", clock=Clock(SilentReporter()), vae=VaeUse.of(plan)
    )
    made = pipeline.denoise([plan], observer=Observer(on_step=lambda _: look())).latents_FCHW
    pipeline.release_transformer()
    decoder = pipeline.decoder()
    for scene in (0, 1):
        decoder.decode(made[scene], scene=scene)
        look()
    loaded = [type(part).__name__ for part in held]
    assert sorted(loaded) == ["AutoencoderKLCogVideoX", "SceneTransformer", "T5EncoderModel"]
    assert max(seen) <= max(sizes.values()) + sizes["AutoencoderKLCogVideoX"]
    assert seen[-1] == sizes["AutoencoderKLCogVideoX"]
    assert sum(sizes.values()) > 1.8 * max(seen)


@pytest.mark.parametrize("name", ["compile", "aot", "onnx"])
def test_a_backend_without_quantization_refuses_it(models: Path, name: str) -> None:
    from m2d.backend import BackendOptions
    from m2d.layout import SceneLayout
    from m2d.placement.modes import Quantized

    layout = SceneLayout.build("mask2dit", text_tokens=[226], latent_frames=[3], tokens_per_frame=15)
    options = BackendOptions(latent_size=(6, 10), quantized=Quantized(kind="int8"))
    with pytest.raises(InputError, match=f"quantize: {name} cannot run quantized weights; eager can"):
        get_backend(name).prepare(resolve_model(str(models / "cogvideox-5b")), layout, options)
