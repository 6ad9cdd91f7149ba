"""Graphs that may not run, from the command line: what is wrong, both keys, what to do, and no film."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from m2d_backends.aot import PACKAGE, AotBackend
from m2d_backends.artifact import publish_artifact
from m2d_backends.artifact_key import default_folder, label_of
from m2d_backends.compiled import compiler_problem
from m2d_backends.graph_backend import GraphBackend, GraphCall, GraphRequest
from m2d_backends.onnx_runtime import OnnxBackend
from m2d_backends.onnx_session import provider_problem, runtime_problem

from m2d.errors import ArtifactRefused
from m2d.pipeline.graphs import graphs_of
from m2d.pipeline.planning import plan_recipe
from tests.m2d.cli.conftest import Run

SHELF = Path("graphs")
FILM = ("generate", "story.yaml", "--backend", "onnx", "--artifacts", "graphs", "--quiet")
needs_modes = pytest.mark.skipif(os.name == "nt", reason="Windows has no owners and modes in this sense")
needs_runtime = pytest.mark.skipif(runtime_problem() is not None, reason="there is no ONNX Runtime")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("M2D_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def shelved(folder: Path, backend: GraphBackend, name: str) -> Path:
    """What an export of the story leaves in `graphs`, but for the graph."""
    (graph,) = graphs_of([plan_recipe(folder / "story.yaml")])
    key = backend._key(graph.source, graph.layout, graph.options)
    shelf = default_folder(key, label=label_of(graph.source, graph.layout), root=SHELF)

    def write(part: Path) -> float:
        (part / name).write_bytes(b"no graph")
        return 0.0

    return publish_artifact(shelf, key, write).folder


@pytest.fixture
def artifact(folder: Path) -> Path:
    return shelved(folder, OnnxBackend(), "graph.onnx")


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The packages of native code that were opened to be run; none is run."""
    packages: list[Path] = []

    def load(_: AotBackend, folder: Path, __: GraphRequest) -> GraphCall:
        packages.append(folder)
        raise ArtifactRefused("opened")

    monkeypatch.setattr(AotBackend, "_load", load)
    return packages


def told(m2d: Run, words: Sequence[str], *, code: int) -> str:
    """The one error of a command that makes no film, in one line."""
    result = m2d(*words)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    assert list(Path().glob("*.mp4")) == []
    return " ".join(result.stderr.split())


def change(path: Path) -> None:
    (path / "graph.onnx").write_bytes(b"no grapi")


def cut(path: Path) -> None:
    (path / "graph.onnx").write_bytes(b"no")


def forget_the_manifest(path: Path) -> None:
    (path / "manifest.json").unlink()


def link(path: Path) -> None:
    path.rename("elsewhere")
    path.symlink_to(Path("elsewhere").absolute())


def open_to_all(path: Path) -> None:
    path.chmod(0o777)


def open_the_shelf_to_all(path: Path) -> None:
    path.parent.chmod(0o777)


@needs_modes
@needs_runtime
@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (change, "graph.onnx: is not what was published: its sha256 differs; export it again"),
        (cut, "graph.onnx: has 2 bytes of the 8 that were published; export it again"),
        (forget_the_manifest, "has no manifest.json: half-written, or no artifact; export it again"),
        (link, "is a symbolic link; name the folder itself"),
        (open_to_all, "others may write to it (mode 777)"),
        (open_the_shelf_to_all, "graphs: others may write to it (mode 777)"),
    ],
)
def test_a_harmed_graph_makes_no_film(
    m2d: Run, artifact: Path, harm: Callable[[Path], None], message: str
) -> None:
    harm(artifact)
    error = told(m2d, FILM, code=2)
    assert message in error
    if harm is not change:  # Whether bytes are right is found out when they are read, and not before.
        assert "export first: m2d export --backend onnx --model" in error
        assert error.endswith("--batch 2 --out graphs")


def flip_a_bit(path: Path) -> None:
    (path / PACKAGE).write_bytes(b"no grapi")


def cut_the_package(path: Path) -> None:
    (path / PACKAGE).write_bytes(b"no")


def swap_the_package_and_its_digest(path: Path) -> None:
    other = b"evilcode"
    (path / PACKAGE).write_bytes(other)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"][PACKAGE]["sha256"] = hashlib.sha256(other).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest))


def change_the_manifest(path: Path) -> None:
    text = (path / "manifest.json").read_text()
    (path / "manifest.json").write_text(text.replace('"relative_error": 0.0', '"relative_error": 1.0'))


def link_the_package(path: Path) -> None:
    (path / PACKAGE).rename("elsewhere.pt2")
    (path / PACKAGE).symlink_to(Path("elsewhere.pt2").absolute())


def take_the_key_of_another_user(_: Path) -> None:
    key = Path("cache/signing.key")
    key.write_bytes(b"x" * len(key.read_bytes()))


@needs_modes
@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (flip_a_bit, "graph.pt2: is not what was published: its sha256 differs"),
        (cut_the_package, "graph.pt2: has 2 bytes of the 8 that were published"),
        (swap_the_package_and_its_digest, "was not exported by you on this machine, or its manifest was"),
        (change_the_manifest, "was not exported by you on this machine, or its manifest was changed"),
        (forget_the_manifest, "has no manifest.json: half-written, or no artifact"),
        (link_the_package, "graph.pt2: is a symbolic link"),
        (take_the_key_of_another_user, "was not exported by you on this machine"),
        (link, "is a symbolic link; name the folder itself"),
    ],
)
def test_native_code_of_a_damaged_package_is_refused_before_it_is_opened(
    m2d: Run, folder: Path, loaded: list[Path], harm: Callable[[Path], None], message: str
) -> None:
    package = shelved(folder, AotBackend(), PACKAGE)
    words = ("generate", "story.yaml", "--backend", "aot", "--artifacts", "graphs", "--quiet")
    told(m2d, words, code=2)
    assert [path.name for path in loaded] == [package.name]
    loaded.clear()
    harm(package)
    error = told(m2d, words, code=2)
    assert (error.startswith("error: "), error.count("error: "), message in error) == (True, 1, True), error
    assert loaded == []


@needs_runtime
def test_a_graph_of_another_story_or_model_is_refused_with_both_keys(
    m2d: Run, artifact: Path, folder: Path, tiny_folder: Path
) -> None:
    words = ("generate", "story.yaml", "--backend", "onnx", "--artifacts", str(artifact), "--quiet")
    other = shutil.copytree(tiny_folder, folder / "other")
    (other / "transformer" / "config.json").open("a").write("\n")
    error = told(m2d, (*words, "--model", str(other)), code=2)
    assert ": is key " in error
    assert ", wanted is " in error
    assert "; weights_digest: artifact " in error
    # Not into the artifact, which would harm it.
    assert error.endswith("--out graphs")
    story = (folder / "story.yaml").read_text()
    (folder / "story.yaml").write_text(story.replace("  - Actor1 jumps.\n", "  - Actor1 jumps.\n" * 2))
    error = told(m2d, words, code=2)
    assert "; targets: artifact [0, 1, 2], wanted [2]" in error
    (folder / "story.yaml").write_text(story + "mask: causal\n")
    assert "; layout_digest: artifact " in told(m2d, words, code=2)


@needs_runtime
def test_nothing_is_exported_into_an_artifact(m2d: Run, artifact: Path, folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    (folder / "story.yaml").write_text((folder / "story.yaml").read_text() + "mask: causal\n")
    words = ("export", "--backend", "onnx", "--recipe", "story.yaml", "--out", str(artifact), "--quiet")
    assert "is an artifact itself; name the folder that it is in" in told(m2d, words, code=2)
    assert sorted(folder.rglob("*")) == before


@needs_modes
@pytest.mark.skipif(compiler_problem("cpu") is not None, reason="there is no compiler")
@pytest.mark.parametrize(
    "words",
    [
        ("generate", "story.yaml", "--backend", "compile"),
        ("export", "--backend", "onnx", "--recipe", "story.yaml"),
    ],
)
def test_a_cache_that_others_may_write_to_or_that_is_a_link_is_not_used(
    m2d: Run, folder: Path, cache: Path, words: tuple[str, ...]
) -> None:
    cache.mkdir()
    cache.chmod(0o777)
    assert "cache: others may write to it (mode 777)" in told(m2d, (*words, "--quiet"), code=2)
    cache.rmdir()
    (folder / "elsewhere").mkdir(mode=0o700)
    cache.symlink_to(folder / "elsewhere")
    assert "cache: is a symbolic link; name the folder itself" in told(m2d, (*words, "--quiet"), code=2)


@needs_modes
@pytest.mark.skipif(compiler_problem("cpu") is not None, reason="there is no compiler")
def test_a_compile_cache_of_the_user_s_own_is_looked_at_too(
    m2d: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "inductor").mkdir()
    (folder / "inductor").chmod(0o777)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))
    error = told(m2d, ("generate", "story.yaml", "--backend", "compile", "--quiet"), code=2)
    assert "inductor: others may write to it (mode 777)" in error


@pytest.mark.parametrize(
    "words",
    [
        ("generate", "story.yaml", "--backend", "tensorrt"),
        ("export", "--recipe", "story.yaml", "--backend", "tensorrt"),
        ("verify", "story.yaml", "--backend", "tensorrt"),
        ("bench", "story.yaml", "--backend", "tensorrt"),
    ],
    ids=lambda words: words[0],
)
def test_a_backend_that_cannot_work_here_exits_with_3_and_says_what_is_missing(
    m2d: Run, words: tuple[str, ...]
) -> None:
    error = told(m2d, (*words, "--quiet"), code=3)
    assert "error: backend 'tensorrt': TensorRT runs on CUDA devices only, not on 'cpu'; use cuda" in error


@needs_runtime
def test_a_provider_for_another_device_and_one_that_is_not_there_are_refused(m2d: Run) -> None:
    words = ("generate", "story.yaml", "--backend", "onnx", "--quiet")
    error = told(m2d, (*words, "--backend-option", "provider=cuda"), code=2)
    assert "provider: cuda does not run on device 'cpu'; give cpu for cpu" in error
    import onnxruntime

    reason = provider_problem("cuda", onnxruntime.get_available_providers())
    if reason is None:
        pytest.skip("this ONNX Runtime has the CUDA provider")
    assert f"backend 'onnx': {reason}" in told(m2d, (*words, "--device", "cuda"), code=3)


def test_tensorrt_trains_nothing(m2d: Run, folder: Path) -> None:
    recipe = Path(__file__).parents[3] / "recipes" / "training" / "puppet-sft.yaml"
    asked = m2d("train", "--stage", "sft", str(recipe), "--backend", "tensorrt")
    assert (asked.exit_code, "No such option: --backend" in asked.stderr) == (2, True)
    (folder / "train.yaml").write_text(recipe.read_text("utf-8") + "\nbackend: tensorrt\n")
    written = m2d("train", "--stage", "sft", "train.yaml")
    assert (written.exit_code, "backend: unknown key" in written.stderr) == (2, True)
