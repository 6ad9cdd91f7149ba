"""A short slice of the corpus; `python -m tests.attack` runs the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attack.guard import LIMIT_BYTES, Ending
from tests.attack.originals import CANARY, prepare
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
