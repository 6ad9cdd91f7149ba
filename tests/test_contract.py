"""The contract itself: a backend of another package passes it, and one that breaks its promise does not."""

from __future__ import annotations

import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from m2d.backend import Backend
from m2d.registry import get_backend

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "backends.md").read_text("utf-8")
WRONG = Path(__file__).with_name("wrong_backends.py")
# Wrong backends, and a test that has to fail for each.
PROMISES = {
    "imprecise": "test_the_velocity_equals_the_models_own",
    "maskless": "test_the_velocity_equals_the_models_own",
    "one-timestep": "test_every_scene_has_a_timestep_of_its_own",
    "overwriting": "test_the_same_call_twice_gives_the_same_bits_and_leaves_its_inputs_alone",
    "falling-back": "test_a_device_that_it_cannot_use_is_refused_and_no_other_is_taken",
    "keeping": "test_a_released_denoiser_refuses_and_another_one_gives_the_same_bits",
    "unchecked": "test_inputs_of_another_layout_are_refused_and_never_run",
}


def told(name: str, kind: str) -> str:
    """A file as the page shows it."""
    (text,) = re.findall(rf"^```{kind}\n# {re.escape(name)}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    return text


def install(folder: Path, name: str, entry_points: dict[str, str]) -> None:
    """What an installer leaves of a package for others to find."""
    metadata = folder / f"{name.replace('-', '_')}-0.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
    lines = [f"{backend} = {target}" for backend, target in entry_points.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[m2d.backends]", *lines, ""]))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of packages with the page's example in it."""
    folder = tmp_path / "site"
    folder.mkdir()
    project = tomllib.loads(told("pyproject.toml", "toml"))["project"]
    install(folder, project["name"], project["entry-points"]["m2d.backends"])
    (folder / "m2d_float64.py").write_text(told("m2d_float64.py", "python"))
    monkeypatch.syspath_prepend(folder)
    yield folder
    for module in ("m2d_float64", "wrong_backends"):
        sys.modules.pop(module, None)


class Outcomes:
    """Remembers how tests ended: the cases of every test that failed, and how many passed."""

    def __init__(self) -> None:
        self.failed: dict[str, list[str]] = defaultdict(list)
        self.num_passed = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name, _, case = report.nodeid.rpartition("::")[2].partition("[")
        if report.failed:
            self.failed[name].append(case)
        self.num_passed += report.when == "call" and report.passed


def hold(*backends: str, only: str = "") -> tuple[int, Outcomes]:
    """Run the contract as its page says, in this process."""
    outcomes = Outcomes()
    words = [str(ROOT / "tests" / "contract"), "--rootdir", str(ROOT), "-p", "no:cacheprovider", "-k", only]
    words += [word for name in backends for word in ("--backend", name)]
    return int(
        pytest.main([*words, "-p", "no:faulthandler", "--no-header", "--tb=no"], plugins=[outcomes])
    ), outcomes


@pytest.mark.usefixtures("site")
def test_the_page_s_example_is_a_backend_that_keeps_the_contract() -> None:
    backend: Backend = get_backend("float64")
    assert backend.unavailable_reason("cpu") is None
    code, outcomes = hold("float64")
    assert (code, dict(outcomes.failed)) == (0, {})
    assert outcomes.num_passed > 30


def test_a_backend_that_breaks_its_promise_fails_the_test_of_that_promise(site: Path) -> None:
    (site / WRONG.name).write_text(WRONG.read_text("utf-8"))
    install(site, "wrong", {name: f"wrong_backends:{name.title().replace('-', '')}" for name in PROMISES})
    code, outcomes = hold(*PROMISES, only=" or ".join(sorted(set(PROMISES.values()))))
    assert code == pytest.ExitCode.TESTS_FAILED
    for name, promise in PROMISES.items():
        assert any(name in case for case in outcomes.failed[promise]), f"{name} was not noticed"


def test_a_backend_nobody_installed_or_that_cannot_work_here_is_no_pass(site: Path) -> None:
    assert hold("float65")[0] == pytest.ExitCode.USAGE_ERROR
    install(site, "absent", {"absent": "a_module_that_is_not_there:Backend"})
    code, outcomes = hold("absent", only="test_targets_outside_the_layout_are_refused")
    assert (code, list(outcomes.failed)) == (1, ["test_targets_outside_the_layout_are_refused"])
