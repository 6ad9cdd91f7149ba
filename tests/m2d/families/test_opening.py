import json
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from m2d.errors import EXIT_UNAVAILABLE, CheckpointError, OutputError
from m2d.families.hub import HubUnavailable
from m2d.families.loading import check_parts, load_transformer
from m2d.families.source import ModelSource, resolve_model
from m2d.model.folder import linked_models, read_header
from m2d.progress import SilentReporter, StageProgress
from m2d.recipe.model_choice import ModelChoice
from tests.m2d.families.hub_server import TOKEN, Hub, commit_of, serve_hub

NAME = "anyone/tiny"
SINGLE = "diffusion_pytorch_model.safetensors"
VAE = f"vae/{SINGLE}"


class Kept(SilentReporter):
    """Keeps notes and counts units; as Ctrl-C does, ends the work after some."""

    def __init__(self, *, stop_after: float = math.inf) -> None:
        self.notes: list[str] = []
        self.advanced, self.stop_after = 0, stop_after

    @contextmanager
    def stage(self, name: str, *, total: int | None = None) -> Iterator[StageProgress]:
        del name, total
        yield self

    def advance(self, amount: int = 1, *, detail: str = "") -> None:
        del detail
        self.advanced += amount
        if self.advanced > self.stop_after:
            raise KeyboardInterrupt

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("M2D_CACHE", str(tmp_path / "m2d"))
    with serve_hub(tmp_path / "hub", monkeypatch) as server:
        yield server


@pytest.fixture
def published(hub: Hub, tiny_folder: Path, tmp_path: Path) -> Path:
    """The tiny model as `NAME`, with the files that repositories have beside a model's."""
    folder = tmp_path / "published"
    shutil.copytree(tiny_folder, folder)
    for name in ("README.md", "LICENSE", "vae/diffusion_pytorch_model.bin", "pipeline.py"):
        (folder / name).write_bytes(b"?" * 1000)
    shutil.copy(folder / VAE, folder / "vae/diffusion_pytorch_model.fp16.safetensors")
    hub.add(NAME, folder)
    return folder


def fetched(reporter: SilentReporter | None = None, **fields: Any) -> ModelSource:
    return resolve_model(ModelChoice(**fields), downloads=reporter or SilentReporter())


def shard(folder: Path) -> None:
    """Put the VAE's weights into one shard with an index."""
    names = list(read_header(folder / VAE))
    (folder / VAE).rename(folder / "vae/diffusion_pytorch_model-00001-of-00001.safetensors")
    index = {"weight_map": dict.fromkeys(names, "diffusion_pytorch_model-00001-of-00001.safetensors")}
    (folder / f"{VAE}.index.json").write_text(json.dumps(index))


@pytest.mark.usefixtures("published")
def test_a_model_of_a_hub_is_downloaded_once_and_only_the_files_that_count(
    hub: Hub, tiny_folder: Path
) -> None:
    with pytest.raises(CheckpointError, match="and the model of the hub is not here"):
        resolve_model(NAME)
    reporter = Kept()
    source = fetched(reporter, model=NAME)
    assert source.digest == resolve_model(str(tiny_folder)).digest
    assert not {
        name for name in hub.files if name.endswith((".bin", ".py", ".md", "LICENSE", "fp16.safetensors"))
    }
    assert any("MB in" in note and hub.url in note for note in reporter.notes)
    total = sum(size for _, size in hub.served)
    assert reporter.advanced == total
    asked = hub.num_requests
    assert resolve_model(NAME).path == fetched(model=NAME).path == source.path
    assert hub.num_requests == asked


@pytest.mark.usefixtures("published")
def test_a_stopped_download_keeps_the_files_that_are_complete(hub: Hub, tiny_folder: Path) -> None:
    size = sum(path.stat().st_size for path in tiny_folder.rglob("*") if path.is_file())
    with pytest.raises(KeyboardInterrupt):
        # The VAE comes last.
        fetched(Kept(stop_after=size - 1), model=NAME)
    with pytest.raises(CheckpointError, match=rf"not downloaded completely: {VAE} is missing"):
        resolve_model(NAME)
    complete = hub.files - {VAE}
    hub.served.clear()
    fetched(model=NAME)
    assert complete
    assert not hub.files & complete


def test_a_broken_connection_is_continued_within_the_file(
    hub: Hub, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", bool)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100)
    size = (published / VAE).stat().st_size
    hub.cut[VAE] = 500
    reporter = Kept()
    fetched(reporter, model=NAME)
    assert [sent for name, sent in hub.served if name == VAE] == [500, size - 500]
    assert reporter.advanced == sum(sent for _, sent in hub.served)


def test_a_snapshot_without_a_file_is_completed(hub: Hub, published: Path) -> None:
    shard(published)
    folder = fetched(model=NAME).path
    shard_file = folder / "vae/diffusion_pytorch_model-00001-of-00001.safetensors"
    shard_file.resolve().unlink()
    shard_file.unlink()
    with pytest.raises(
        CheckpointError, match=r"not downloaded completely: vae/.*00001.safetensors is missing"
    ):
        resolve_model(NAME)
    hub.served.clear()
    assert fetched(model=NAME).path == folder
    assert hub.files == {"vae/diffusion_pytorch_model-00001-of-00001.safetensors"}


@pytest.mark.usefixtures("published")
def test_a_revision_and_a_variant_are_taken_where_they_are_asked_for(hub: Hub, tiny_folder: Path) -> None:
    hub.add(NAME, tiny_folder, "v2/final")
    source = fetched(model=NAME, revision="v2/final")
    assert source.path.name == commit_of(NAME, "v2/final")
    assert fetched(model=f"{NAME}@{commit_of(NAME, 'v2/final')}").path == source.path
    hub.served.clear()
    chosen = fetched(model=NAME, variant="fp16")
    assert (chosen.path / VAE).resolve() == (hub_file("vae/diffusion_pytorch_model.fp16.safetensors"))
    assert VAE not in hub.files
    assert chosen.digest == source.digest
    with pytest.raises(
        CheckpointError, match="variant 'fp8': the model has no such weights; its variants: fp16"
    ):
        fetched(model=NAME, variant="fp8")
    with pytest.raises(CheckpointError, match="revision 'v2': 'anyone/tiny@main' names one, too"):
        fetched(model=f"{NAME}@main", revision="v2")
    with pytest.raises(CheckpointError, match=r"revision 'v2': .* is no model of a hub"):
        fetched(model=str(tiny_folder), revision="v2")


def hub_file(name: str) -> Path:
    from huggingface_hub import try_to_load_from_cache

    return Path(str(try_to_load_from_cache(NAME, name))).resolve()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("anyone/other", "model anyone/other: there is no such folder, and .* has no such model"),
        (f"{NAME}@v9", "has no revision 'v9' of it"),
        ("-a--b/c", "no hub has such names"),
    ],
)
@pytest.mark.usefixtures("hub", "published")
def test_what_the_hub_does_not_have_is_bad_input(model: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        fetched(model=model)


@pytest.mark.usefixtures("published")
def test_a_gated_model_needs_a_token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.gated.add(NAME)
    with pytest.raises(CheckpointError, match=r"accepted its terms.*set HF_TOKEN"):
        fetched(model=NAME)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert fetched(model=NAME).path.is_dir()


@pytest.mark.usefixtures("published")
def test_without_a_hub_the_cause_is_named_and_the_exit_code_is_another(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert HubUnavailable.exit_code == EXIT_UNAVAILABLE
    hub.down = 500
    with pytest.raises(HubUnavailable, match=r"answers: .*500"):
        fetched(model=NAME)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubUnavailable, match=r"http://127.0.0.1:9 cannot be reached: .*refused"):
        fetched(model=NAME)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubUnavailable, match=r"not complete in .*, and HF_HUB_OFFLINE is set"):
        fetched(model=NAME)


def test_a_full_disk_and_pickles_are_refused_before_the_download(
    hub: Hub, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=1000)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: usage)
        with pytest.raises(OutputError, match=r"MB to download, but .* has 0\.0 MB free"):
            fetched(model=NAME)
    for path in published.rglob("*.safetensors"):
        path.rename(path.with_suffix(".bin"))
    with pytest.raises(CheckpointError, match=r"\.bin: a pickle, which m2d never opens"):
        fetched(model=NAME)
    assert not hub.files


@pytest.mark.usefixtures("published")
def test_parts_come_from_other_folders_files_and_repositories(
    hub: Hub, tiny_folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other" / "transformer"
    shutil.copytree(tiny_folder / "transformer", other)
    hub.add("anyone/vae", tiny_folder / "vae")
    source = fetched(model=NAME, transformer=str(other), vae="anyone/vae", text_encoder=str(tiny_folder))
    assert not {name for name in hub.files if name.startswith(("transformer/", "vae/", "text_encoder/model"))}
    assert source.digest == resolve_model(str(tiny_folder)).digest
    assert source.choice.parts.keys() == {"transformer", "vae", "text_encoder"}
    check_parts(source)
    assert fetched(model=NAME, transformer=str(tmp_path / "other")).digest == source.digest


@pytest.mark.usefixtures("hub")
def test_a_single_file_beside_a_base_model_takes_its_config(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    stored = load_file(tiny_folder / "transformer" / SINGLE)
    save_file({name: tensor + 1 for name, tensor in stored.items()}, tmp_path / "mine.safetensors")
    source = resolve_model(ModelChoice(model=str(tiny_folder), transformer="~/mine.safetensors"))
    assert source.digest != resolve_model(str(tiny_folder)).digest
    loaded = load_transformer(source, device="cpu", dtype=torch.float32).state_dict()
    assert all(torch.equal(loaded[name], tensor + 1) for name, tensor in stored.items())

    (tmp_path / "mine.safetensors").unlink()
    (tmp_path / "mine.safetensors").symlink_to(tiny_folder / VAE)
    with pytest.raises(CheckpointError, match=r"the weights do not fit config.json"):
        check_parts(resolve_model(ModelChoice(model=str(tiny_folder), transformer="~/mine.safetensors")))
    with pytest.raises(CheckpointError, match=r"config.json: a file, where a model folder is needed"):
        resolve_model(ModelChoice(model=str(tiny_folder), vae=str(tiny_folder / "vae" / "config.json")))


@pytest.mark.usefixtures("hub")
def test_how_a_transformer_was_trained_comes_with_it(tiny_folder: Path, tmp_path: Path) -> None:
    trained = tmp_path / "trained"
    shutil.copytree(tiny_folder, trained)
    settings = json.loads((tiny_folder / "m2d.json").read_text())
    (trained / "m2d.json").write_text(json.dumps(settings | {"num_scenes": 7}))
    chosen = ModelChoice(model=str(tiny_folder), transformer=str(trained))
    assert resolve_model(chosen).geometry.num_scenes == 7
    assert resolve_model(ModelChoice(model=str(trained), vae=str(tiny_folder))).geometry.num_scenes == 7
    assert (
        resolve_model(
            ModelChoice(model=str(trained), transformer=str(tiny_folder / "transformer"))
        ).geometry.num_scenes
        != 7
    )


def pickled(folder: Path) -> None:
    path = folder / "transformer" / SINGLE
    path.rename(path.with_suffix(".bin"))


def of_a_variant(folder: Path) -> None:
    path = folder / "transformer" / SINGLE
    path.rename(path.with_suffix(".fp16.safetensors"))


def without_a_tensor(folder: Path) -> None:
    path = folder / "transformer" / SINGLE
    stored = load_file(path)
    stored.popitem()
    save_file(stored, path)


def of_other_channels(folder: Path) -> None:
    path = folder / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"out_channels": 8}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (pickled, r"transformer: holds diffusion_pytorch_model\.bin, a pickle"),
        (of_a_variant, r"transformer: holds .*, of the variant 'fp16'"),
        (without_a_tensor, r"transformer: the weights do not fit config\.json: missing"),
        (of_other_channels, r"transformer/config\.json: out_channels is 8, but .*vae/config\.json has"),
    ],
)
def test_a_bad_part_is_named_by_its_field_and_its_own_folder_and_leaves_no_links(
    damage: Callable[[Path], None], message: str, tiny_folder: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("M2D_CACHE", str(tmp_path / "m2d"))
    bad = tmp_path / "bad"
    shutil.copytree(tiny_folder, bad)
    damage(bad)
    for place in (bad, bad / "transformer"):
        with pytest.raises(CheckpointError, match=rf"^transformer: {bad}/{message}") as caught:
            resolve_model(ModelChoice(model=str(tiny_folder), transformer=str(place)))
        assert [field for field, _ in caught.value.problems] == ["transformer"]
    with pytest.raises(CheckpointError, match=rf"{bad}/{message}"):
        resolve_model(ModelChoice(model=str(bad), text_encoder=str(tiny_folder)))
    (bad / "transformer" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=rf"{bad}: neither transformer/config.json nor config.json is"):
        resolve_model(ModelChoice(model=str(tiny_folder), transformer=str(bad)))
    assert not list(linked_models().glob("*"))


def test_a_path_is_never_taken_for_a_model_of_a_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("./model", "~/model", "/model", "../model"):
        with pytest.raises(CheckpointError, match=r"no such folder; a name that begins with '\.', '/'"):
            fetched(model=path)
    with pytest.raises(CheckpointError, match=r"^vae: './model': there is no such folder"):
        resolve_model(ModelChoice(vae="./model"))
