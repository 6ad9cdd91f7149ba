"""Artifacts: complete or absent, run only for what they were made for, and only when nobody touched them."""

import json
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from m2d_backends import artifact, onnx_runtime, trust
from m2d_backends.artifact import locate, open_artifact, publish_artifact, stored_artifacts
from m2d_backends.artifact_key import ArtifactKey, default_folder

from m2d.errors import ArtifactMissing, ArtifactRefused, ExportError, InputError

KEY = ArtifactKey(
    backend="aot",
    weights_digest="a" * 64,
    layout_digest="b" * 64,
    latent_shape=(6, 4, 8, 8),
    batch_size=2,
    targets=(0, 1, 2),
    dtype="float32",
    device="cpu x86_64",
    versions={"torch": "2.13.0"},
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("M2D_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_graph(folder: Path) -> float:
    (folder / "graph.bin").write_bytes(b"graph")
    (folder / "weights.bin").write_bytes(b"weights")
    return 2e-7


@pytest.fixture
def made() -> Path:
    return publish_artifact(default_folder(KEY, label="puppet"), KEY, write_graph).folder


def edit_manifest(folder: Path, change: Callable[[dict], None]) -> None:
    path = folder / artifact.MANIFEST
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_what_is_published_opens_and_is_listed_with_its_measured_error(made: Path, cache: Path) -> None:
    assert open_artifact(made, KEY) == made
    (stored,) = stored_artifacts("aot")
    assert (stored.folder, stored.manifest, stored.relative_error) == (made, KEY, 2e-7)
    assert stored.size_bytes == len(b"graphweights")
    assert stored_artifacts("onnx") == ()
    assert made.parent == cache / "artifacts"
    assert made.name.startswith("aot-puppet-6x8x8-b2-float32-")


def test_only_the_user_may_enter_the_cache_and_read_the_key(made: Path, cache: Path) -> None:
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (cache, made.parent, made)}
    assert set(modes.values()) == {0o700}
    assert stat.S_IMODE((cache / trust.KEY_FILE).stat().st_mode) == 0o600
    assert {stat.S_IMODE(path.stat().st_mode) for path in made.iterdir()} == {0o600}


def test_a_writer_that_fails_leaves_nothing() -> None:
    def fail(folder: Path) -> float:
        write_graph(folder)
        raise ExportError("differs from eager")

    folder = default_folder(KEY)
    with pytest.raises(ExportError, match="differs from eager"):
        publish_artifact(folder, KEY, fail)
    assert list(folder.parent.iterdir()) == []
    with pytest.raises(ArtifactMissing, match="no graph is exported for this"):
        open_artifact(folder, KEY)


def test_a_failing_replacement_keeps_the_artifact_that_was_there(made: Path) -> None:
    with pytest.raises(ExportError, match="one file or more"):
        publish_artifact(made, KEY, lambda _: 0.0)
    assert open_artifact(made, KEY)


def test_an_artifact_is_replaced_whole(made: Path) -> None:
    def write_other(folder: Path) -> float:
        (folder / "other.bin").write_bytes(b"other")
        return 0.0

    publish_artifact(made, KEY, write_other)
    assert {path.name for path in made.iterdir()} == {"other.bin", artifact.MANIFEST}
    assert [path.name for path in made.parent.iterdir()] == [made.name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights_digest": "c" * 64}, "weights_digest: artifact aaaaaaaaaaaa, wanted cccccccccccc"),
        ({"layout_digest": "d" * 64}, "layout_digest: artifact bbbbbbbbbbbb, wanted dddddddddddd"),
        ({"latent_shape": (6, 4, 8, 4)}, r"latent_shape: artifact \[6, 4, 8, 8\], wanted \[6, 4, 8, 4\]"),
        ({"batch_size": 1}, "batch_size: artifact 2, wanted 1"),
        ({"targets": (2,)}, r"targets: artifact \[0, 1, 2\], wanted \[2\]"),
        ({"dtype": "bfloat16"}, "dtype: artifact float32, wanted bfloat16"),
        ({"device": "cuda sm_90"}, "device: artifact cpu x86_64, wanted cuda sm_90"),
        ({"versions": {"torch": "2.14"}}, r"versions: artifact .*2\.13\.0.*, wanted .*2\.14"),
        ({"backend": "onnx"}, "backend: artifact aot, wanted onnx"),
    ],
)
def test_a_copied_or_outdated_artifact_is_refused_with_both_keys(
    made: Path, change: dict, message: str
) -> None:
    wanted = replace(KEY, **change)
    with pytest.raises(ArtifactRefused, match=rf"is key \w{{12}}, wanted is \w{{12}}; {message}"):
        open_artifact(made, wanted)


def test_other_versions_share_the_folder_and_other_weights_do_not() -> None:
    assert default_folder(replace(KEY, versions={"torch": "2.14"})) == default_folder(KEY)
    assert default_folder(replace(KEY, device="cpu arm64")) == default_folder(KEY)
    for change in ({"weights_digest": "c" * 64}, {"targets": (2,)}, {"device": "cuda sm_90"}):
        assert default_folder(replace(KEY, **change)) != default_folder(KEY)


def flip_a_bit(folder: Path) -> None:
    (folder / "graph.bin").write_bytes(b"grapi")


def cut_short(folder: Path) -> None:
    (folder / "weights.bin").write_bytes(b"weigh")


def lose_a_file(folder: Path) -> None:
    (folder / "weights.bin").unlink()


def add_a_file(folder: Path) -> None:
    (folder / "extra.so").write_bytes(b"")


def lose_the_manifest(folder: Path) -> None:
    (folder / artifact.MANIFEST).unlink()


def link_a_file(folder: Path) -> None:
    (folder / "graph.bin").rename(folder.parent / "elsewhere.bin")
    (folder / "graph.bin").symlink_to(folder.parent / "elsewhere.bin")


def hard_link_a_file(folder: Path) -> None:
    os.link(folder / "graph.bin", folder.parent / "second-name.bin")


def let_all_write_a_file(folder: Path) -> None:
    (folder / "graph.bin").chmod(0o666)


def let_all_write_the_manifest(folder: Path) -> None:
    (folder / artifact.MANIFEST).chmod(0o622)


def let_all_write_the_folder(folder: Path) -> None:
    folder.chmod(0o777)


def let_all_write_the_cache(folder: Path) -> None:
    folder.parent.chmod(0o777)


def link_the_folder(folder: Path) -> None:
    folder.rename(folder.with_name("real"))
    folder.symlink_to(folder.with_name("real"))


def garble_the_manifest(folder: Path) -> None:
    (folder / artifact.MANIFEST).write_text("{")


def name_a_file_elsewhere(folder: Path) -> None:
    described = {"sha256": "0" * 64, "size_bytes": 0}
    edit_manifest(folder, lambda document: document["files"].update({"../outside.so": described}))


def know_another_format(folder: Path) -> None:
    edit_manifest(folder, lambda document: document.update(format="m2d.artifact/9"))


def tell_another_field(folder: Path) -> None:
    edit_manifest(folder, lambda document: document.update(plugin="evil.so"))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (flip_a_bit, "sha256 differs"),
        (cut_short, "has 5 bytes of the 7"),
        (lose_a_file, r"other files than its manifest says: \['weights.bin'\]"),
        (add_a_file, r"other files than its manifest says: \['extra.so'\]"),
        (lose_the_manifest, "half-written, or no artifact"),
        (link_a_file, "is a symbolic link"),
        (hard_link_a_file, r"has 2 names \(hard links\)"),
        (let_all_write_a_file, r"others may write to it \(mode 666\)"),
        (let_all_write_the_manifest, r"others may write to it \(mode 622\)"),
        (let_all_write_the_folder, r"others may write to it \(mode 777\)"),
        (let_all_write_the_cache, r"artifacts: others may write to it \(mode 777\)"),
        (link_the_folder, "is a symbolic link"),
        (garble_the_manifest, "is not a manifest"),
        (name_a_file_elsewhere, r"files \['../outside.so'\]: not understood"),
        (know_another_format, "format 'm2d.artifact/9'"),
        (tell_another_field, "is not a manifest"),
    ],
)
def test_a_harmed_artifact_is_refused(made: Path, harm: Callable[[Path], None], message: str) -> None:
    harm(made)
    with pytest.raises(ArtifactRefused, match=message):
        open_artifact(made, KEY)


def test_a_graph_with_consistent_digests_but_no_signature_of_the_user_is_refused(made: Path) -> None:
    evil = b"evil native code"
    (made / "graph.bin").write_bytes(evil)
    described = {"sha256": artifact.sha256_file(made / "graph.bin"), "size_bytes": len(evil)}
    edit_manifest(made, lambda document: document["files"].update({"graph.bin": described}))
    with pytest.raises(ArtifactRefused, match="was not exported by you on this machine"):
        open_artifact(made, KEY)


def test_a_graph_signed_with_another_key_is_refused(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("M2D_CACHE", str(tmp_path / "another user's"))
    with pytest.raises(ArtifactRefused, match="was not exported by you"):
        open_artifact(made, KEY)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda key: key.chmod(0o644), "others may read this key"),
        (lambda key: key.write_bytes(b"short"), "5 bytes, a key has 32"),
        (lambda key: (key.rename(f"{key}.real"), key.symlink_to(f"{key}.real")), "is a symbolic link"),
    ],
)
def test_a_key_that_others_may_know_signs_nothing(
    made: Path, cache: Path, harm: Callable[[Path], object], message: str
) -> None:
    harm(cache / trust.KEY_FILE)
    with pytest.raises(ArtifactRefused, match=message):
        open_artifact(made, KEY)


def test_an_artifact_of_another_user_is_refused(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: made.stat().st_uid + 1)
    with pytest.raises(ArtifactRefused, match=r"belongs to user .*, not to you"):
        open_artifact(made, KEY)


def test_a_folder_given_by_name_is_searched_or_taken_itself(tmp_path: Path) -> None:
    out = tmp_path / "exports"
    stored = publish_artifact(default_folder(KEY, label="puppet", root=out), KEY, write_graph)
    assert stored.folder.parent == out
    assert locate(KEY, label="puppet", root=out) == stored.folder
    assert locate(KEY, label="anything", root=stored.folder) == stored.folder
    assert [each.folder for each in stored_artifacts("aot", out)] == [stored.folder]


def test_a_folder_whose_name_no_library_takes_is_refused_before_any_work(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"\xff\xfe") / made.name
    with pytest.raises(InputError, match="the name is not UTF-8 text"):
        publish_artifact(folder, KEY, lambda _: pytest.fail("written"))
    made.parent.rename(folder.parent)
    with pytest.raises(InputError, match="the name is not UTF-8 text"):
        open_artifact(folder, KEY)


def test_a_killed_comparison_leaves_nothing_outside_of_the_unpublished_folder(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def export_graph(_: object, folder: Path, **_options: object) -> None:
        write_graph(folder)
        seen.append(sorted(path.name for path in (cache / "artifacts").iterdir()))

    monkeypatch.setattr("m2d_backends.onnx_export.export_graph", export_graph)
    monkeypatch.setattr(onnx_runtime, "_bake", lambda *_: None)
    monkeypatch.setattr(onnx_runtime, "compare", lambda *_: 0.0)
    key = replace(KEY, dtype="bfloat16", versions={"opset": "23"})
    request = SimpleNamespace(key=key)
    made = publish_artifact(
        default_folder(key, label="x"), key, lambda part: onnx_runtime._write(part, request)
    )
    assert seen == [[f".{made.folder.name}.{os.getpid()}.part"]] * 2
    assert [path.name for path in made.folder.parent.iterdir()] == [made.folder.name]


def test_what_killed_exports_left_is_removed_and_never_listed(made: Path) -> None:
    stray = made.with_name(f".{made.name}.4194305.part")
    stray.mkdir()
    (stray / "graph.bin").write_bytes(b"half")
    assert [each.folder for each in stored_artifacts("aot")] == [made]
    publish_artifact(made, KEY, write_graph)
    assert not stray.exists()
