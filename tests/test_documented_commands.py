"""README's and the docs' commands, run in order in a fresh copy of the project, as a reader would type them.

Takes most of an hour: `python -m pytest -m long tests/test_documented_commands.py -k README` runs one page.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("command-line", "backends", "training")),
]
# What cannot run here, and why. A command that is not listed must run.
NOT_RUN = {
    r"^make ": "sets up an environment of its own; CI runs it",
    r"^(hf download|m2d models get zai-org/)": "downloads tens of gigabytes",
    r"--watch ": "follows another training",
    r"\bRECIPE\b": "a placeholder",
    r"--size 480x720": "compiles a graph of CogVideoX's size for many minutes",
    r"--backend float64": "needs the package that the page shows; test_contract.py runs it",
}
LIMIT_S = 1800


def blocks(page: Path, kind: str) -> Iterator[str]:
    yield from re.findall(rf"^```{kind}\n(.*?)^```", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def commands(page: Path) -> Iterator[str]:
    """Every command of the page's shell blocks, a continued one on one line."""
    for block in blocks(page, "sh"):
        yield from (line for line in block.replace("\\\n", " ").splitlines() if line.strip())


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The project as committed, with the files that readers have by then, and `m2d` on the path."""
    folder = tmp_path / "m2d"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    for page in PAGES:
        for block in blocks(page, "yaml"):
            if name := re.match(r"# (\S+\.yaml)\n", block):
                (folder / name[1]).write_text(block, "utf-8")
    shutil.copy(folder / "recipes/stories/first-snow.yaml", folder / "other.yaml")
    (folder / "stories").mkdir()
    shutil.copy(folder / "recipes/stories/the-missed-tram.yaml", folder / "stories")
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "m2d"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m m2d "$@"\n')
    script.chmod(0o755)
    return folder


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder.parent / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {
        **os.environ,
        "PATH": path,
        "PYTHONPATH": str(folder),
        "M2D_CACHE": str(folder.parent / "cache"),
    }
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT_S
    )


@pytest.mark.long
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_run_in_order(page: Path, copy: Path) -> None:
    # Other pages start where the README's first story and training end.
    before = [] if page.stem == "README" else ["m2d generate story.yaml --out film.mp4"]
    if page.stem == "training":
        before.append("m2d puppet render --stories 4 --out clips")
    typed = [each for each in commands(page) if not any(re.search(rule, each) for rule in NOT_RUN)]
    assert typed
    for command in [*before, *typed]:
        done = run(command, copy)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


def test_every_command_that_is_not_run_is_still_documented() -> None:
    typed = [command for page in PAGES for command in commands(page)]
    for rule in NOT_RUN:
        assert any(re.search(rule, each) for each in typed), rule
