"""The run folder gives back exactly what was written, or says what is wrong with it."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from m2d.enlarging import Enlarging
from m2d.errors import OutputError, Remedy
from m2d.video.provenance import ModelRecord, Provenance, ProvenanceError
from m2d.video.provenance_builder import MadeScene, build_provenance, build_run_record
from m2d.video.run_folder import RunFolderError, check_run_folder, read_run, read_sheet, run_folder_of
from tests.m2d.odd_files import ODD_FILES, put
from tests.m2d.video.grown_films import write_run


def latents_of(num_scenes: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((2, 4, 3, 5), dtype=np.float32) for _ in range(num_scenes)]


def provenance_of(latents: list[np.ndarray]) -> Provenance:
    scenes = [
        MadeScene(prompt="p", seed=1, frames_PHWC=np.zeros((5, 8, 8, 3), np.uint8), latents_FCHW=latents_FCHW)
        for latents_FCHW in latents
    ]
    run = build_run_record(
        kind="generate",
        recipe={},
        parameters={},
        model=ModelRecord(name="builtin:puppet", digest="0"),
        windows=[],
    )
    return build_provenance(
        title="t",
        runs=[run],
        scenes=scenes,
        fps=8,
        upscale=Enlarging(1),
    )


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """A film's path with its run folder beside it."""
    path = tmp_path / "snow.mp4"
    write(path)
    return path


def write(path: Path) -> None:
    latents = latents_of()
    write_run(
        path,
        provenance=provenance_of(latents),
        latents_FCHW=latents,
        timings_s={"denoise": 1.5},
        sheet=b"png",
    )


def test_run_is_read_back_as_it_was_written(film: Path) -> None:
    run = read_run(film)
    assert run.provenance == provenance_of(latents_of())
    assert run.timings_s == {"denoise": 1.5}
    for found, written in zip(run.latents_FCHW, latents_of(), strict=True):
        np.testing.assert_array_equal(found, written)
    folder = run_folder_of(film)
    assert folder.name == "snow.m2d"
    assert sorted(path.name for path in folder.iterdir()) == ["latents.safetensors", "run.json", "sheet.png"]


def test_another_run_is_refused_unless_forced(film: Path) -> None:
    with pytest.raises(
        OutputError,
        match=r"snow\.m2d: holds another run",
        check=lambda error: error.remedy is Remedy.OVERWRITE,
    ):
        check_run_folder(film, force=False)
    check_run_folder(film, force=True)


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "snow.m2d").write_bytes(b"mine")
    with pytest.raises(OutputError, match="is a file, but the run's folder goes there"):
        check_run_folder(tmp_path / "snow.mp4", force=True)


def test_missing_parts_are_named(film: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"other\.m2d/run\.json: cannot be read: No such file"):
        read_run(tmp_path / "other.mp4")
    (run_folder_of(film) / "latents.safetensors").unlink()
    with pytest.raises(RunFolderError, match=r"latents\.safetensors: is missing"):
        read_run(film)


def test_changed_latents_are_noticed(film: Path) -> None:
    path = run_folder_of(film) / "latents.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(RunFolderError, match=r"latents\.safetensors: was changed since it was written"):
        read_run(film)


@pytest.mark.skipif(sys.platform != "linux", reason="no file at hand that nobody can read")
def test_latents_that_the_disk_does_not_give_are_told_with_its_reason(film: Path) -> None:
    latents = run_folder_of(film) / "latents.safetensors"
    latents.unlink()
    # Not even root reads the first page of a process.
    latents.symlink_to("/proc/self/mem")
    with pytest.raises(
        RunFolderError, match=r"latents\.safetensors: cannot be read: Input/output error; resto"
    ):
        read_run(film)


def test_exchanged_latents_with_a_fitting_file_digest_are_noticed(film: Path) -> None:
    folder = run_folder_of(film)
    record = json.loads((folder / "run.json").read_text())
    others = {f"scene_{index:03d}": latents + 1 for index, latents in enumerate(latents_of())}
    for tensors, complaint in (
        (others, "latents of scene 0 are not those"),
        ({"x": others["scene_000"]}, "holds 1"),
    ):
        save_file(tensors, folder / "latents.safetensors")
        digest = hashlib.sha256((folder / "latents.safetensors").read_bytes()).hexdigest()
        record["files"]["latents.safetensors"] = digest
        (folder / "run.json").write_text(json.dumps(record))
        with pytest.raises(RunFolderError, match=complaint):
            read_run(film)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is not JSON"),
        ("[]", "is not the record of a run of version 1"),
        ('{"m2d_run": 2}', "is not the record of a run of version 1"),
        ('{"m2d_run": 1, "provenance": 3}', "provenance is missing or not an object"),
        ("\udcff", "is not JSON"),
    ],
)
def test_record_that_is_none_is_refused(film: Path, text: str, complaint: str) -> None:
    (run_folder_of(film) / "run.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RunFolderError, match=complaint):
        read_run(film)


def test_changed_record_is_noticed(film: Path) -> None:
    path = run_folder_of(film) / "run.json"
    path.write_text(path.read_text().replace('"seed": 1', '"seed": 2'))
    with pytest.raises(ProvenanceError, match="corrupt"):
        read_run(film)


@pytest.mark.parametrize("kind", ODD_FILES)
def test_what_is_no_regular_file_is_not_read(film: Path, kind: str) -> None:
    folder = run_folder_of(film)
    put(kind, folder / "sheet.png")
    assert read_sheet(film) == b""
    for name in ("latents.safetensors", "run.json"):
        put(kind, folder / name)
        with pytest.raises(RunFolderError, match=rf"{name}: cannot be read: it is a"):
            read_run(film)


def test_latents_far_larger_than_the_film_are_not_read(film: Path) -> None:
    with (run_folder_of(film) / "latents.safetensors").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(
        RunFolderError, match=r"latents.safetensors: cannot be read: it has 1,099,511,627,776"
    ):
        read_run(film)
