"""Models that cannot be used, by every command that takes one: one message with the cause, and no file."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from m2d.tasks.models import make_random
from tests.attack.guard import Guarded, Rooms
from tests.attack.originals import environment
from tests.attack.states import obey_permissions
from tests.m2d.cli.conftest import Run
from tests.m2d.families.hub_server import Hub, commit_of, serve_hub
from tests.m2d.families.test_loading import TRANSFORMER, compiled, edit_json, edit_weights

TRAINING = """\
title: tiny
stage: pretrain
model: bad
init: bad
data: {source: "builtin:puppet", num_stories: 4, held_out: 2}
video: {num_frames: 5, height: 32, width: 32}
num_scenes: 2
steps: 1
batch_size: 1
optimizer: {name: adamw, lr: 1.0e-3}
evaluation: {num_samples: 1}
"""
COMMANDS: dict[str, tuple[str, ...]] = {
    "check": ("check", "story.yaml", "--model", "{}"),
    "generate": ("generate", "story.yaml", "--model", "{}"),
    "extend": ("extend", "film.mp4", "--prompt", "Actor1 waves.", "--model", "{}", "--out", "longer.mp4"),
    "export": ("export", "--backend", "onnx", "--recipe", "story.yaml", "--model", "{}", "--out", "graphs"),
    "train": ("train", "train.yaml", "--model", "{}", "--init", "{}", "--out", "run", "--cache", "latents"),
}


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A film of the tiny model, which `extend` starts from."""
    from m2d import Story, generate

    story = Story(
        title="Film",
        model=str(tiny_folder),
        cast={"Actor1": "round red body, wool cap"},
        scenes=["Actor1 walks right."],
        sampling={"num_inference_steps": 1, "guidance_scale": 1.0},
        video={"num_frames": 5},
    )
    return generate(story, tmp_path_factory.mktemp("films") / "film.mp4").film


@pytest.fixture
def place(folder: Path, film: Path, tiny_folder: Path) -> Path:
    """The working folder with a story, a film, a training recipe, and a copy of the tiny model to break."""
    shutil.copytree(tiny_folder, folder / "bad")
    shutil.copyfile(film, folder / "film.mp4")
    (folder / "train.yaml").write_text(TRAINING)
    return folder


def refusal(
    m2d: Run, place: Path, command: str, model: str, *, more: tuple[str, ...] = ()
) -> tuple[int, str]:
    """Return the exit code of a command that has to leave the working folder as it is, and its errors."""
    before = sorted(place.rglob("*"))
    result = m2d(*(word.format(model) for word in COMMANDS[command]), *more)
    assert sorted(place.rglob("*")) == before, result.output
    assert "Traceback" not in result.output
    assert "encode prompts" not in result.stderr
    errors = re.findall(r"^error: .*(?:\n(?!\S+:).*)*", result.stderr, flags=re.M)
    # A recipe's errors are reported together, each once.
    assert 0 < len(set(errors)) == len(errors), result.output
    return result.exit_code, " ".join(" ".join(errors).split())


def fp8(weights: dict[str, torch.Tensor]) -> None:
    for name in list(weights):
        weights[name] = weights[name].to(torch.float8_e4m3fn)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "fp8": (lambda f: edit_weights(f / TRANSFORMER, fp8), "weights of type F8_E4M3, which are quantized"),
    "compiled": (
        lambda f: edit_weights(f / TRANSFORMER, compiled),
        "begin with _orig_mod., as those of a compiled model; save those of the model itself",
    ),
    "auto_map": (
        lambda f: edit_json(f / "transformer/config.json", auto_map={"AutoModel": "modeling.Model"}),
        "config.json: unknown auto_map; this is a variant that m2d does not know",
    ),
    "pickle": (
        lambda f: (f / TRANSFORMER).rename(f / "transformer/diffusion_pytorch_model.bin"),
        "diffusion_pytorch_model.bin, a pickle that m2d never opens because it can run code",
    ),
    "class": (
        lambda f: edit_json(f / "vae/config.json", _class_name="AutoencoderKLWan"),
        "vae/config.json: class 'AutoencoderKLWan' is not supported; allowed: AutoencoderKLCogVideoX",
    ),
    "text encoder": (
        lambda f: edit_weights(
            f / "text_encoder/model.safetensors", lambda w: w.pop("encoder.final_layer_norm.weight")
        ),
        "text_encoder: the weights do not fit config.json: missing: encoder.final_layer_norm.weight",
    ),
    "vae": (
        lambda f: edit_weights(
            f / "vae/diffusion_pytorch_model.safetensors", lambda w: w.pop("decoder.conv_out.conv.bias")
        ),
        "vae: the weights do not fit config.json: missing: decoder.conv_out.conv.bias",
    ),
    "truncated": (
        lambda f: (f / TRANSFORMER).write_bytes((f / TRANSFORMER).read_bytes()[:-1]),
        "it is truncated or not a safetensors file",
    ),
    "scheduler": (
        lambda f: edit_json(f / "scheduler/scheduler_config.json", prediction_type="epsilon"),
        "prediction_type",
    ),
}


# `check` and `train` read every part in their own way; the other commands share `check`'s.
CASES = [
    *((name, command) for name in DAMAGES for command in ("check", "train")),
    *((name, command) for name in ("compiled", "auto_map", "vae", "scheduler") for command in COMMANDS),
]


@pytest.mark.parametrize(("name", "command"), sorted(set(CASES)))
def test_a_broken_folder_is_refused_by_its_cause(m2d: Run, place: Path, name: str, command: str) -> None:
    damage, message = DAMAGES[name]
    damage(place / "bad")
    code, error = refusal(m2d, place, command, "bad")
    assert (code, message in error) == (2, True), error


HUB_MODEL = "anyone/tiny"


@pytest.fixture
def hub(
    tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Hub]:
    monkeypatch.setenv("M2D_CACHE", str(tmp_path_factory.mktemp("cache")))
    with serve_hub(tmp_path_factory.mktemp("hub"), monkeypatch) as server:
        server.add(HUB_MODEL, tiny_folder)
        yield server


DOWNLOADING = [command for command in COMMANDS if command != "check"]


@pytest.mark.parametrize("command", DOWNLOADING)
def test_a_hub_that_does_not_give_a_model_is_named_with_the_cause(
    m2d: Run, place: Path, hub: Hub, command: str
) -> None:
    code, error = refusal(m2d, place, command, "anyone/nothing")
    assert (code, f"{hub.url} has no such model; a private one needs HF_TOKEN" in error) == (2, True), error
    hub.gated.add(HUB_MODEL)
    code, error = refusal(m2d, place, command, HUB_MODEL)
    assert (code, "only to those who have accepted its terms" in error) == (2, True), error
    hub.down = 503
    code, error = refusal(m2d, place, command, HUB_MODEL)
    assert (code, f"{hub.url} answers: " in error) == (3, True), error


@pytest.mark.parametrize("command", DOWNLOADING)
def test_without_a_network_the_cause_is_named(
    m2d: Run, place: Path, hub: Hub, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hub.commits
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    code, error = refusal(m2d, place, command, HUB_MODEL)
    assert (code, "http://127.0.0.1:9 cannot be reached: " in error) == (3, True), error


def test_a_partial_download_is_named_by_check_and_completed_by_train(m2d: Run, place: Path, hub: Hub) -> None:
    hub.cut["vae/diffusion_pytorch_model.safetensors"] = 100
    hub.cut["transformer/diffusion_pytorch_model.safetensors"] = 100
    assert m2d("models", "get", HUB_MODEL).exit_code in (0, 3)
    import huggingface_hub.constants

    snapshot = Path(huggingface_hub.constants.HF_HUB_CACHE) / "models--anyone--tiny" / "snapshots"
    (snapshot / commit_of(HUB_MODEL, "main") / "vae" / "config.json").unlink(missing_ok=True)
    code, error = refusal(m2d, place, "check", HUB_MODEL)
    assert (code, "was not downloaded completely: vae/config.json is missing" in error) == (2, True), error
    words = [word.format(HUB_MODEL) for word in COMMANDS["train"]]
    assert m2d(*words).exit_code == 0
    assert (place / "run" / "model" / "vae" / "config.json").is_file()


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != "train"])
def test_a_lora_for_another_model_is_named(m2d: Run, place: Path, tiny_folder: Path, command: str) -> None:
    name = "transformer.transformer_blocks.0.attn1.to_q"
    shapes = {f"{name}.lora_A.weight": (2, 3072), f"{name}.lora_B.weight": (3072, 2)}
    save_file({key: torch.zeros(shape) for key, shape in shapes.items()}, place / "5b.safetensors")
    code, error = refusal(m2d, place, command, str(tiny_folder), more=("--lora", "5b.safetensors"))
    assert (code, "5b.safetensors: is for another model: transformer_blocks.0" in error) == (2, True), error


def other_family(place: Path, name: str) -> str:
    return str(make_random(name, place / "other", is_tiny=True))


@pytest.mark.parametrize("command", COMMANDS)
def test_another_familys_frames_are_refused_with_the_rule(m2d: Run, place: Path, command: str) -> None:
    model = other_family(place, "cogvideox-1.5-5b")
    story = (place / "story.yaml").read_text()
    (place / "story.yaml").write_text(story.replace("video: {", "video: {num_frames: 5, "))
    code, error = refusal(m2d, place, command, model)
    assert (code, "5 is not 16k+1; use 1 or 17" in error) == (2, True), error


@pytest.mark.parametrize("command", ["check", "generate", "train"])
def test_another_familys_size_and_an_image_model_without_image_are_refused(
    m2d: Run, place: Path, command: str
) -> None:
    model = other_family(place, "cogvideox-5b-i2v")
    code, error = refusal(m2d, place, command, model, more=("--set", "video.width=96"))
    message = "image-to-video models cannot be trained" if command == "train" else "width: 96"
    assert (code, message in error) == (2, True), error


@pytest.mark.parametrize("command", ["check", "generate", "extend"])
def test_too_little_memory_is_said_with_what_would_do(
    m2d: Run, place: Path, tiny_folder: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from m2d.pipeline import placing

    monkeypatch.setattr(placing, "_FEW_WEIGHTS", 0)
    monkeypatch.setattr(placing, "free_host_bytes", lambda: 1000)
    placing._this_device.cache_clear()
    code, error = refusal(m2d, place, command, str(tiny_folder))
    placing._this_device.cache_clear()
    assert (code, "0.0 MiB free; at least" in error, "would do" in error) == (3, True, True), error


@pytest.mark.parametrize(
    ("closed", "message"),
    [
        ("shut", "shut/model: cannot be read: Permission denied"),
        ("shut/model", "shut/model/model_index.json: Permission denied"),
        ("shut/model/transformer", "shut/model/transformer/config.json: cannot be read: Permission denied"),
        ("shut/model/vae/config.json", "shut/model/vae/config.json: cannot be read: Permission denied"),
    ],
)
def test_a_model_without_permission_is_called_so_and_not_missing(
    folder: Path, tiny_folder: Path, closed: str, message: str
) -> None:
    shutil.copytree(tiny_folder, folder / "shut" / "model")
    (folder / "cache").mkdir()
    (folder / closed).chmod(0)
    words = ["check", "story.yaml", "--model", "shut/model"]
    rooms = Rooms(case=folder, readable=(tiny_folder,))
    # As root, permissions mean nothing; this process gives that up.
    ending = Guarded(words, rooms, environment(folder / "cache"), state=obey_permissions).wait()
    (folder / closed).chmod(0o700)
    assert (ending.code, message in ending.stderr, "Traceback" in ending.stderr) == (2, True, False), ending
    assert not ending.breaches
