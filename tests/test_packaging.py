"""The wheel: what is in it, and that an installation of it works far from this repository."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

from benchmarks.decoded_film import read_film
from m2d.families.opening import BUILTIN_MODELS
from m2d.families.source import resolve_model
from tests.m2d.model.tiny_model import build_tiny_model

ROOT = Path(__file__).resolve().parents[1]
STORY = """\
title: Abroad
cast: {Actor1: "round red body, wool cap"}
setting: park at noon
scenes:
  - Actor1 walks right.
  - Actor1 waves.
sampling: {num_inference_steps: 2, guidance_scale: 1.0}
output: abroad.mp4
"""

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "--quiet", "--wheel-dir", str(folder))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `m2d` program of an environment with the wheel and, borrowed from ours, what it depends on."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, with_pip=False)
    programs = environment / "bin"
    run(sys.executable, "-m", "pip", "--python", str(programs / "python"), "install", "--no-deps", str(wheel))
    (site,) = environment.glob("lib/python*/site-packages")
    # Our own editable installation stays out: path files of a borrowed folder are not read.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return programs / "m2d"


def run(*words: str, cwd: Path | None = None) -> str:
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_wheel_holds_both_packages_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"m2d/py.typed", "m2d/cli/main.py", "m2d_backends/eager.py"} <= names
    assert {"m2d/video/fonts/DejaVuSansCondensed.ttf", "m2d/video/fonts/LICENSE"} <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"m2d", "m2d_backends"}
    assert not [name for name in names if "__pycache__" in name or name.endswith(".part")]


@pytest.mark.parametrize("name", BUILTIN_MODELS)
def test_the_wheel_holds_every_file_of_an_embedded_model_and_none_is_large(wheel: Path, name: str) -> None:
    paths = [path for path in resolve_model(name).path.rglob("*") if path.is_file()]
    assert {path.relative_to(ROOT).as_posix() for path in paths} <= set(zipfile.ZipFile(wheel).namelist())
    assert sum(path.stat().st_size for path in paths) <= 40e6


def test_the_wheel_offers_the_program_and_its_backends(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
    entries = ConfigParser(delimiters=("=",))
    entries.read_string(archive.read(name).decode())
    assert dict(entries["console_scripts"]) == {"m2d": "m2d.__main__:main"}
    assert entries["m2d.backends"]["eager"] == "m2d_backends.eager:EagerBackend"


def test_the_installed_program_is_the_wheel_s(installed: Path, tmp_path: Path) -> None:
    where = "import m2d, m2d_backends; print(m2d.__file__, m2d_backends.__file__)"
    for file in run(str(installed.with_name("python")), "-c", where, cwd=tmp_path).split():
        assert Path(file).is_relative_to(installed.parents[1])
    assert run(str(installed), "--version", cwd=tmp_path).startswith("m2d ")


def test_the_installed_program_makes_a_film_from_a_model_folder(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "story.yaml").write_text(STORY)
    build_tiny_model(tmp_path / "model")
    words = ("generate", "story.yaml", "--model", "model", "--json", "--quiet")
    made = json.loads(run(str(installed), *words, cwd=tmp_path))
    assert made["film"] == "abroad.mp4"
    assert len(read_film(tmp_path / "abroad.mp4").frames_PHWC) == made["num_frames"] == 18


def test_the_installed_program_makes_a_film_with_the_embedded_model(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "story.yaml").write_text(STORY)
    made = json.loads(run(str(installed), "generate", "story.yaml", "--json", "--quiet", cwd=tmp_path))
    film = read_film(tmp_path / "abroad.mp4")
    assert len(film.frames_PHWC) == made["num_frames"]
    assert {path.name for path in (tmp_path / "abroad.m2d").iterdir()} >= {
        "run.json",
        "latents.safetensors",
        "sheet.png",
    }
