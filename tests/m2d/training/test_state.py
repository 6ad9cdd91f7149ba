from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from m2d.errors import CheckpointError, OutputError
from m2d.training.folder import publish_folder, remove_leftovers
from m2d.training.optim import AveragedModel, ModelOptimizer
from m2d.training.recipe_parts import OptimizerRecipe
from m2d.training.state import (
    FOLDER,
    TrainState,
    find_checkpoint,
    load_checkpoint,
    read_facts,
    save_checkpoint,
)
from tests.m2d.faults import FaultyDisk, refuse, run_until_crash
from tests.m2d.odd_files import ODD_FILES, put


def _state(step: int) -> TrainState:
    model = nn.Linear(2, 2)
    nn.init.constant_(model.weight, float(step))
    nn.init.constant_(model.bias, 0.0)
    optimizer = ModelOptimizer(model, OptimizerRecipe(name="adamw", lr=1e-3))
    return TrainState(model=model, average=AveragedModel(model, decay=0.9), optimizer=optimizer, step=step)


def _save(run: Path, step: int) -> Path:
    return save_checkpoint(run, _state(step), facts={"recipe": {}}, keep=2)


def _names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / FOLDER).iterdir())


def test_only_the_newest_checkpoints_stay(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        _save(tmp_path, step)
    assert _names(tmp_path) == ["step-00000002", "step-00000003"]


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    path = _save(tmp_path, 7)
    state = _state(0)
    load_checkpoint(path, state)
    assert state.step == 7
    assert state.model.get_parameter("weight")[0, 0].item() == 7.0
    assert state.average.model.get_parameter("weight")[0, 0].item() == 7.0


@pytest.mark.parametrize(
    "name", ["weights.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]
)
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_one_flipped_byte_refuses_a_checkpoint_and_takes_the_one_before(
    tmp_path: Path, name: str, place: str
) -> None:
    _save(tmp_path, 1)
    damaged = _save(tmp_path, 2) / name
    data = bytearray(damaged.read_bytes())
    data[{"first": 0, "middle": len(data) // 2, "last": len(data) - 1}[place]] ^= 1
    damaged.write_bytes(data)
    found = find_checkpoint(tmp_path)
    assert found.path is not None
    assert found.path.name == "step-00000001"
    assert len(found.rejected) == 1
    assert name in found.rejected[0]


@pytest.mark.parametrize("damage", ["missing", "added"])
def test_a_missing_or_added_file_refuses_a_checkpoint(tmp_path: Path, damage: str) -> None:
    path = _save(tmp_path, 1)
    if damage == "missing":
        (path / "ema.safetensors").unlink()
    else:
        (path / "extra.bin").write_bytes(b"x")
    found = find_checkpoint(tmp_path)
    assert found.path is None
    assert "disagree with manifest.json" in found.rejected[0]


def test_damaged_checkpoints_do_not_push_out_sound_ones(tmp_path: Path) -> None:
    for step in (1, 5, 6):
        save_checkpoint(tmp_path, _state(step), facts={}, keep=3)
    for step in (5, 6):
        (tmp_path / FOLDER / f"step-{step:08d}" / "state.json").write_text("{}")
    _save(tmp_path, 2)
    found = find_checkpoint(tmp_path)
    assert found.path is not None
    assert found.path.name == "step-00000002"
    assert len(found.rejected) == 2
    assert "step-00000001" in _names(tmp_path)


def _complaint_of_a_save(run: Path) -> str:
    try:
        _save(run, 3)
    except OutputError as error:
        return str(error)
    return ""


def test_a_kill_at_any_operation_of_a_save_leaves_a_sound_checkpoint(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    for step in (1, 2):
        _save(tmp_path / "start", step)
    at, crashed = 0, True
    while crashed:
        at += 1
        run = tmp_path / f"run-{at}"
        shutil.copytree(tmp_path / "start", run)
        crashed, _ = run_until_crash(lambda told, run=run: (_save(run, 3), told()), at=at)
        found = find_checkpoint(run)
        assert found.path is not None
        assert found.path.name in ("step-00000002", "step-00000003")
        assert not found.rejected
        # The next owner clears what was left, and saves.
        remove_leftovers(run / FOLDER)
        _save(run, 4)
        assert set(_names(run)) <= {"step-00000002", "step-00000003", "step-00000004"}
    assert at > 40


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_a_disk_that_refuses_any_operation_of_a_save_is_an_error_and_leaves_a_sound_checkpoint(
    tmp_path: Path, code: int
) -> None:
    for step in (1, 2):
        _save(tmp_path / "start", step)
    at, has_failed = 0, True
    while has_failed:
        at += 1
        run = tmp_path / f"run-{at}"
        shutil.copytree(tmp_path / "start", run)
        disk = FaultyDisk(at=at, fault=refuse(code))
        with pytest.MonkeyPatch.context() as patch:
            disk.install(patch)
            complaint = _complaint_of_a_save(run)
        assert (os.strerror(code) in complaint) is disk.has_failed
        has_failed = disk.has_failed
        found = find_checkpoint(run)
        assert found.path is not None
        assert found.path.name in ("step-00000002", "step-00000003")
        assert not found.rejected
    assert at > 40


def test_saving_a_step_again_keeps_the_sound_checkpoint_and_replaces_a_damaged_one(tmp_path: Path) -> None:
    path = _save(tmp_path, 3)
    before = path.stat().st_ino
    assert _save(tmp_path, 3).stat().st_ino == before
    (path / "state.json").write_text("{}")
    assert _save(tmp_path, 3).stat().st_ino != before
    assert find_checkpoint(tmp_path).path == path


def test_a_checkpoint_of_another_model_names_what_differs(tmp_path: Path) -> None:
    path = _save(tmp_path, 1)
    model = nn.Linear(3, 2, bias=False)
    optimizer = ModelOptimizer(model, OptimizerRecipe(name="adamw", lr=1e-3))
    other = TrainState(model=model, average=AveragedModel(model, decay=0.9), optimizer=optimizer)
    pattern = r"another model: bias was \(2,\) and is missing; weight was \(2, 2\) and is \(2, 3\)"
    with pytest.raises(CheckpointError, match=pattern):
        load_checkpoint(path, other)


@pytest.mark.parametrize("kind", ODD_FILES)
@pytest.mark.parametrize("name", ["weights.safetensors", "state.json", "manifest.json"])
def test_what_is_no_regular_file_is_rejected_and_the_checkpoint_before_is_used(
    tmp_path: Path, name: str, kind: str
) -> None:
    before, newest = _save(tmp_path, 1), _save(tmp_path, 2)
    put(kind, newest / name)
    found = find_checkpoint(tmp_path)
    assert found.path == before
    assert str(newest) in found.rejected[0]


@pytest.mark.parametrize("files", ['{"weights.safetensors": NaN}', '{"weights.safetensors": 1}', "[]"])
def test_a_manifest_of_other_values_is_no_manifest(tmp_path: Path, files: str) -> None:
    before, newest = _save(tmp_path, 1), _save(tmp_path, 2)
    (newest / "manifest.json").write_text(f'{{"files":{files},"sha256":"00"}}')
    found = find_checkpoint(tmp_path)
    assert found.path == before
    assert "is not a manifest" in found.rejected[0]


def _signed(path: Path) -> Path:
    """A checkpoint that was changed, with the manifest of its files: whoever changes a file can write one."""
    (path / "manifest.json").unlink()
    parts = {file.name: file.read_bytes() for file in path.iterdir()}
    with publish_folder(path, replace=True) as part:
        for name, data in parts.items():
            (part / name).write_bytes(data)
    return path


@pytest.mark.parametrize("file", ["weights.safetensors", "ema.safetensors"])
@pytest.mark.parametrize(
    ("weight", "complaint"),
    [
        (torch.full((2, 2), torch.nan), "weight is NaN or infinite in 4 of 4 values"),
        (torch.zeros(2, 2, dtype=torch.int64), r"weight is int64 of shape \(2, 2\), not float32"),
        (torch.zeros(1, 4), r"weight was \(1, 4\) and is \(2, 2\)"),
    ],
)
def test_weights_that_no_training_saved_are_refused_whatever_their_digest(
    tmp_path: Path, file: str, weight: torch.Tensor, complaint: str
) -> None:
    path = _save(tmp_path, 2)
    save_file({"weight": weight, "bias": torch.zeros(2)}, path / file)
    assert find_checkpoint(tmp_path).path is None
    assert find_checkpoint(_signed(path).parents[1]).path == path
    with pytest.raises(CheckpointError, match=complaint):
        load_checkpoint(path, _state(0))


@pytest.mark.parametrize(
    "facts",
    [
        '{"step": 3}',
        '{"step": -2}',
        f'{{"step": {10**400}}}',
        '{"step": true}',
        '{"step": 2, "recipe": []}',
        '{"step": 2, "transformer": []}',
        '{"step": 2, "transformer": {"num_layers": 1000000000000000000}}',
        '{"step": 2, "transformer": {"attention_head_dim": 0}}',
    ],
)
def test_facts_that_no_training_wrote_are_refused_whatever_their_digest(tmp_path: Path, facts: str) -> None:
    path = _save(tmp_path, 2)
    (path / "state.json").write_text(facts)
    _signed(path)
    assert find_checkpoint(tmp_path).path == path
    with pytest.raises(CheckpointError, match=r"state\.json: "):
        read_facts(path)


def test_whoever_may_read_a_published_folder_may_read_its_weights(tmp_path: Path) -> None:
    with publish_folder(tmp_path / "model") as part:
        (part / "vae").mkdir()
        save_file({"weight": torch.zeros(1)}, part / "vae" / "weights.safetensors")
    files = [path for path in (tmp_path / "model").rglob("*") if path.is_file()]
    usual = (tmp_path / "model").stat().st_mode & 0o666
    assert len(files) == 2
    assert {path.stat().st_mode & 0o777 for path in files} == {usual}


def test_a_folder_that_appears_during_the_work_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "model"

    def write() -> None:
        with publish_folder(path) as part:
            (part / "ours").write_bytes(b"")
            path.mkdir()
            (path / "theirs").write_bytes(b"")

    with pytest.raises(OutputError, match="model: exists already"):
        write()
    assert [file.name for file in path.iterdir()] == ["theirs"]
    assert [folder.name for folder in tmp_path.iterdir()] == ["model"]
