"""Files and folders of another user, closed or readable only: one line that names them, and exit code 2."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.attack.guard import Guarded, Rooms, load_everything
from tests.attack.originals import copy, environment, prepare
from tests.attack.states import obey_permissions

OTHER = 65534
CLOSED, READABLE = 0o700, 0o755
MODEL = "--model model"
# What belongs to the other user, its mode, the command, and what it says; nothing: it ends well.
CASES = [
    ("model", CLOSED, "check story.yaml --model model", "model/model_index.json: Permission denied"),
    (
        "model",
        CLOSED,
        "generate story.yaml --out o.mp4 --model model",
        "model/model_index.json: Permission denied",
    ),
    ("model/vae", CLOSED, f"check story.yaml {MODEL}", "Permission denied"),
    ("model/transformer/config.json", CLOSED, f"check story.yaml {MODEL}", "Permission denied"),
    ("model/vae/config.json", CLOSED, f"generate story.yaml --out o.mp4 {MODEL}", "Permission denied"),
    ("model", READABLE, f"check story.yaml {MODEL}", ""),
    ("film.m2d", CLOSED, "inspect film.mp4", ""),
    ("film.m2d", CLOSED, f"reroll film.mp4 --scene 1 --out o.mp4 {MODEL}", "give a run folder you may read"),
    ("film.m2d", CLOSED, f"extend film.mp4 --prompt x --out o.mp4 {MODEL}", "give a run folder you may read"),
    ("film.m2d", READABLE, f"reroll film.mp4 --scene 1 --out film.mp4 --force {MODEL}", "Permission denied"),
    ("film.mp4", CLOSED, "inspect film.mp4", "is not readable"),
    ("film.mp4", CLOSED, "eval film.mp4 --out r --embedder none", "is not readable"),
    ("closed", CLOSED, "check closed/story.yaml", "cannot be read: Permission denied"),
    ("closed", CLOSED, "inspect closed/film.mp4", "Permission denied"),
    ("closed", CLOSED, "generate story.yaml --out closed/o.mp4", "Permission denied"),
    ("closed", CLOSED, "check story.yaml --model closed/model", "Permission denied"),
    ("closed", CLOSED, "check story.yaml --lora closed/l.safetensors", "Permission denied"),
    ("closed", CLOSED, "train training.yaml --out closed/run --resume", "Permission denied"),
    ("closed", CLOSED, "train --data closed --plan", "is not readable"),
    ("closed", CLOSED, "data show closed 0", "is not readable"),
    *(
        ("shared", READABLE, line, "shared")
        for line in (
            "generate story.yaml --out shared/o.mp4",
            f"extend film.mp4 --prompt x --out shared/o.mp4 {MODEL}",
            f"reroll film.mp4 --scene 1 --out shared/o.mp4 {MODEL}",
            f"reproduce film.mp4 --out shared/o.mp4 {MODEL}",
            "board film.mp4 --out shared/b.html",
            "eval film.mp4 --out shared/r --embedder none",
            "compare story.yaml --out shared/c --embedder none --methods mask2dit",
            "train training.yaml --out shared/run",
            "export --backend onnx --recipe story.yaml --out shared/g",
            "data build clips --out shared/set",
            "puppet film --out shared/f --minutes 0.1 --fps 2",
            "init shared/x.yaml",
        )
    ),
    ("clips", CLOSED, "train training.yaml --plan", "clips"),
    ("clips/0.txt", CLOSED, "train training.yaml --plan", "0.txt"),
    ("cache", READABLE, "doctor", ""),
    ("cache", CLOSED, "doctor", ""),
    ("cache", CLOSED, "backends list", "cache"),
    ("cache", READABLE, "train training.yaml --out run", "cache"),
    ("cache", CLOSED, "export --backend onnx --recipe story.yaml", "cache"),
]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    load_everything()
    return prepare(tmp_path_factory.mktemp("originals") / "originals")


@pytest.mark.long
@pytest.mark.skipif(os.name == "nt" or os.getuid() != 0, reason="only root can give files to another user")
@pytest.mark.parametrize(("path", "mode", "line", "said"), CASES)
def test_what_belongs_to_another_user_is_named(
    path: str, mode: int, line: str, said: str, originals: Path, tmp_path: Path
) -> None:
    case = tmp_path / "case"
    case.mkdir()
    for name in ("story.yaml", "training.yaml", "film.mp4", "film.m2d", "clips", "model"):
        copy(originals / name, case / name)
    for name in ("cache", "closed", "shared"):
        (case / name).mkdir()
    owned = case / path
    for each in [*owned.rglob("*"), owned]:
        os.chown(each, OTHER, OTHER)
        each.chmod(mode if each.is_dir() else mode & 0o666)
    around = environment(case / "cache") | {"TMPDIR": str(tmp_path)}
    # Without its capabilities, root is one user among others.
    rooms = Rooms(case=case, readable=(originals,), writable=(tmp_path,))
    ending = Guarded(line.split(), rooms, around, state=obey_permissions).wait()
    owned.chmod(0o755)
    errors = [each for each in ending.stderr.splitlines() if each.startswith("error: ")]
    assert (ending.code, len(errors), ending.breaches) == ((2, 1, ()) if said else (0, 0, ())), ending
    assert said in "".join(errors)
    assert "Traceback" not in ending.stdout + ending.stderr
    assert not list(tmp_path.rglob("*.part"))
