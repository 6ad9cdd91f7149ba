"""A short slice of the corpus; `python -m tests.attack` runs the rest."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest

from tests.attack.guard import LIMIT_BYTES, Audit, Ending, Rooms
from tests.attack.odd_paths import harmless
from tests.attack.originals import CANARY, prepare
from tests.attack.trial import Trial, named_paths
from tests.attack.trials import CLASSES, run_trial
from tests.attack.verdict import judge

SEEDS = (11,)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("attack") / "originals")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", CLASSES)
def test_changed_input_is_taken_or_refused_in_words(
    name: str, seed: int, originals: Path, tmp_path: Path
) -> None:
    result = run_trial(name, originals=originals, case=tmp_path / "trial" / "case", seed=seed)
    assert not result.wrong, f"{result.trial}: {result.ending}"


def ending(**changes: object) -> Ending:
    values = {
        "code": 2,
        "stdout": "",
        "stderr": "error: x\n",
        "seconds": 1.0,
        "peak_bytes": 1,
        "breaches": (),
    }
    return Ending(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"code": -11}, "exit code -11"),
        ({"stderr": "error: x\nTraceback (most recent call last):\n"}, "a traceback"),
        ({"stderr": ""}, "refused without a line that says why"),
        ({"is_late": True}, "more than 10 s of work, or no end"),
        ({"peak_bytes": LIMIT_BYTES + (1 << 20)}, "1537 MiB of memory"),
        ({"breaches": ("write /etc/x",)}, "forbidden: write /etc/x"),
        ({"stdout": CANARY}, "a foreign file was shown"),
    ],
    ids=["signal", "traceback", "silence", "hang", "memory", "file", "canary"],
)
def test_what_must_not_happen_is_found(changes: dict[str, object], wrong: str, tmp_path: Path) -> None:
    (tmp_path / "case").mkdir()
    assert not judge(ending(), tmp_path / "case")
    assert judge(ending(**changes), tmp_path / "case") == [wrong]


def test_colours_that_were_asked_for_are_not_the_inputs(tmp_path: Path) -> None:
    refused = ending(stderr="\x1b[1;31merror: \x1b[0m\x1b[31mx\x1b[0m\n")
    assert not judge(refused, tmp_path / "case", is_coloured=True)
    assert judge(refused, tmp_path / "case") == [
        "refused without a line that says why",
        "control characters of the input were printed",
    ]


def breaches(words: list[str], folder: Path, *opened: tuple[str, int], **environment: str) -> list[str]:
    """Return what the audit says of files that a command opens, relative to `folder`, with flags."""
    case = folder / "case"
    case.mkdir(parents=True, exist_ok=True)
    read, made = named_paths(Trial(words=words, what="", environment=environment), case)
    report = folder / "breaches"
    with report.open("wb", buffering=0) as file:
        check = Audit(Rooms(case=case, readable=read, outputs=made), file.fileno(), ())
        for name, flags in opened:
            check("open", (str(folder / name), None, flags))
    return report.read_text().replace(f"{folder}", "").split("\n")[:-1]


WRITE = os.O_WRONLY | os.O_CREAT


@pytest.mark.parametrize(
    ("words", "opened", "wrong"),
    [
        ("train --out ..", [("log.jsonl", WRITE), (".lock", WRITE)], []),
        ("train --out ../run", [("run/log.jsonl", WRITE), (".run.7.part/x", WRITE), ("", os.O_RDONLY)], []),
        ("train --out ../run", [("log.jsonl", WRITE)], ["write /log.jsonl"]),
        ("train --out ../run", [("runs/x", WRITE), ("other", os.O_RDONLY)], ["write /runs/x", "read /other"]),
        ("train --out ../run", [("", WRITE)], ["write "]),
        ("train --data ..", [("a.txt", os.O_RDONLY), ("a.txt", WRITE)], ["write /a.txt"]),
        ("check story.yaml --set image=../a.png", [("a.png", 0), ("b.png", 0)], ["read /b.png"]),
        ("check story.yaml", [("case/x", WRITE), ("a.txt", os.O_RDONLY)], ["read /a.txt"]),
    ],
)
def test_a_command_may_open_what_it_was_told_to_and_nothing_else(
    words: str, opened: list[tuple[str, int]], wrong: list[str], tmp_path: Path
) -> None:
    assert breaches(words.split(), tmp_path, *opened) == wrong


def test_a_cache_may_be_where_its_variable_says(tmp_path: Path) -> None:
    opened = [("cache/key", WRITE), ("key", WRITE)]
    assert breaches(["doctor"], tmp_path, *opened, M2D_CACHE="../cache") == ["write /key"]
    assert breaches(["doctor"], tmp_path, *opened, LANG="../cache") == ["write /cache/key", "write /key"]


def test_the_search_for_a_temporary_folder_is_no_breach_but_a_file_there_is(tmp_path: Path) -> None:
    (tmp_path / "case").mkdir()
    report = os.open(tmp_path / "breaches", os.O_WRONLY | os.O_CREAT)
    child = os.fork()
    if child == 0:
        os.environ["TMPDIR"] = str(tmp_path / "missing")
        tempfile.tempdir = None
        sys.addaudithook(Audit(Rooms(case=tmp_path / "case", readable=()), report, ()))
        _, name = tempfile.mkstemp()
        Path(name).unlink()
        os._exit(0)
    os.waitpid(child, 0)
    os.close(report)
    lines = (tmp_path / "breaches").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["write"]


def test_no_trial_writes_to_the_machine_itself(tmp_path: Path) -> None:
    case = tmp_path / "trial/case"
    for name in ("/", "/nonexistent/x"):
        assert Path(harmless(name, case)).is_relative_to(tmp_path / "trial")
    assert harmless("..", case) == ".."
