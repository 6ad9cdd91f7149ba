"""What every backend that runs exported graphs must do besides: this layout's and model's graph, or none."""

import os
import shutil

import pytest
import torch

from m2d.backend import BackendOptions
from m2d.errors import ArtifactMissing, ArtifactRefused, BackendError, InputError
from m2d.families.source import resolve_model
from m2d.layout import SceneLayout
from tests.contract.stories import LAYOUTS, RELATIVE_ERROR, THREE_SCENES, inputs_for, options_for, prepare

LAYOUT = LAYOUTS[THREE_SCENES]
MANIFEST = "manifest.json"
needs_modes = pytest.mark.skipif(os.name == "nt", reason="Windows has no owners and modes in this sense")


@pytest.fixture(scope="session")
def exported(exporting, source):
    """The folder of the graph of three scenes; not to be changed."""
    prepare(exporting, source, LAYOUT, options_for())
    return exporting.find(source, LAYOUT, options_for())


@pytest.fixture
def artifact(exported, tmp_path):
    """A copy of it, in a folder of its own."""
    shelf = tmp_path / "shelf"
    shelf.mkdir(mode=0o700)
    return shutil.copytree(exported, shelf / exported.name)


def refused(exporting, source, artifact, match):
    """Whoever asks is refused, by the name of the artifact and by the folder that it is in."""
    for folder in (artifact, artifact.parent):
        with pytest.raises(ArtifactRefused, match=match):
            exporting.prepare(source, LAYOUT, options_for(artifacts=folder))


def files_of(artifact):
    return sorted(path for path in artifact.iterdir() if path.name != MANIFEST)


def test_without_a_graph_nothing_is_run(exporting, source):
    layout = SceneLayout.build("isolated", text_tokens=(5,), latent_frames=(7,), tokens_per_frame=4)
    for act in (exporting.find, exporting.prepare):
        with pytest.raises(ArtifactMissing, match=f"backend '{exporting.name}': no graph is exported"):
            act(source, layout, options_for())


def test_a_graph_is_for_one_size_which_has_to_be_given(exporting, source):
    for act in (exporting.find, exporting.export):
        with pytest.raises(InputError, match=r"latent_size=\(height, width\)"):
            act(source, LAYOUTS["one scene"], BackendOptions())
        with pytest.raises(InputError, match="latent_size: got 4x8 in patches of 2, the layout has 4 tokens"):
            act(source, LAYOUTS["one scene"], BackendOptions(latent_size=(4, 8)))


def test_what_was_exported_is_listed_with_what_it_is_made_from_and_its_error(exporting, source, exported):
    (stored,) = [each for each in exporting.stored() if each.folder == exported]
    manifest = stored.manifest
    assert manifest.backend == exporting.name
    assert (manifest.weights_digest, manifest.layout_digest) == (source.digest, LAYOUT.digest())
    assert (manifest.targets, manifest.dtype) == ((0, 1, 2), "float32")
    assert manifest.latent_shape == tuple(inputs_for(LAYOUT).latents_BFCHW.shape[1:])
    assert 0 <= stored.relative_error <= RELATIVE_ERROR
    assert stored.size_bytes == sum(path.stat().st_size for path in files_of(exported))


def test_an_artifact_is_found_by_its_name_and_in_a_folder_of_several(exporting, source, artifact):
    inputs = inputs_for(LAYOUT)
    named, searched = (
        exporting.prepare(source, LAYOUT, options_for(artifacts=folder)).predict(*inputs)
        for folder in (artifact, artifact.parent)
    )
    assert torch.equal(named, searched)
    assert exporting.find(source, LAYOUT, options_for(artifacts=artifact.parent)) == artifact
    assert [stored.folder for stored in exporting.stored(artifact.parent)] == [artifact]


def test_a_graph_runs_no_other_layout(exporting, source, exported):
    with pytest.raises(
        ArtifactRefused, match=r"is key \w{12}, wanted is \w{12}; .*layout_digest: artifact \w+, wanted \w+"
    ):
        exporting.prepare(source, LAYOUTS["one scene"], options_for(artifacts=exported))


def test_a_graph_runs_no_other_weights(exporting, source, exported, tmp_path):
    moved = shutil.copytree(source.path, tmp_path / "model")
    config = moved / "transformer" / "config.json"
    config.write_text(config.read_text() + "\n")
    with pytest.raises(
        ArtifactRefused, match=r"is key \w{12}, wanted is \w{12}; .*weights_digest: artifact \w+, wanted \w+"
    ):
        exporting.prepare(resolve_model(str(moved)), LAYOUT, options_for(artifacts=exported))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": (2,)}, r"targets: artifact \[0, 1, 2\], wanted \[2\]"),
        ({"dtype": "bfloat16"}, "bfloat16"),
    ],
)
def test_a_graph_makes_no_other_scenes_and_computes_in_no_other_precision(
    exporting, source, exported, changes, message
):
    with pytest.raises(BackendError, match=message):
        exporting.prepare(source, LAYOUT, options_for(artifacts=exported, **changes))


def test_a_changed_byte_anywhere_in_a_graph_is_noticed(exporting, source, artifact):
    for path in files_of(artifact):
        whole = path.read_bytes()
        changed = bytearray(whole)
        changed[len(changed) // 2] ^= 1
        path.write_bytes(changed)
        refused(exporting, source, artifact, match="sha256 differs")
        path.write_bytes(whole)


def test_a_half_written_artifact_is_never_run(exporting, source, artifact):
    graph = files_of(artifact)[0]
    whole = graph.read_bytes()
    graph.write_bytes(whole[:-1])
    refused(exporting, source, artifact, match=rf"has {len(whole) - 1} bytes of the {len(whole)}")
    graph.unlink()
    refused(exporting, source, artifact, match="holds other files than its manifest says")
    (artifact / MANIFEST).unlink()
    with pytest.raises(ArtifactRefused, match="half-written"):
        exporting.prepare(source, LAYOUT, options_for(artifacts=artifact.parent))
    assert exporting.stored(artifact.parent) == ()


def test_links_in_place_of_an_artifact_or_its_files_are_not_followed(exporting, source, artifact, tmp_path):
    graph, elsewhere = files_of(artifact)[0], tmp_path / "elsewhere"
    graph.rename(elsewhere)
    graph.symlink_to(elsewhere)
    refused(exporting, source, artifact, match="is a symbolic link")
    graph.unlink()
    os.link(elsewhere, graph)
    refused(exporting, source, artifact, match="hard links")
    elsewhere.unlink()
    artifact.rename(tmp_path / "real")
    artifact.symlink_to(tmp_path / "real")
    refused(exporting, source, artifact, match="is a symbolic link")


@needs_modes
def test_what_others_may_write_to_is_not_run(exporting, source, artifact):
    for path in (files_of(artifact)[0], artifact / MANIFEST, artifact, artifact.parent):
        before = path.stat().st_mode
        path.chmod(before | 0o002)
        refused(exporting, source, artifact, match=r"others may write to it")
        path.chmod(before)
    exporting.prepare(source, LAYOUT, options_for(artifacts=artifact))


@needs_modes
def test_nothing_is_exported_to_where_others_may_write_or_a_link_leads(exporting, source, tmp_path):
    shared, link = tmp_path / "shared", tmp_path / "link"
    shared.mkdir()
    shared.chmod(0o777)
    link.symlink_to(shared)
    for folder, message in ((shared, "others may write to it"), (link, "is a symbolic link")):
        with pytest.raises(ArtifactRefused, match=message):
            exporting.export(source, LAYOUT, options_for(), out=folder)
    assert list(shared.iterdir()) == []


@needs_modes
def test_a_cache_that_others_may_write_to_or_that_is_a_link_is_refused(
    exporting, source, artifact, tmp_path, monkeypatch
):
    cache = tmp_path / "cache"
    (cache / "artifacts").mkdir(parents=True, mode=0o700)
    cache.chmod(0o700)
    shutil.copytree(artifact, cache / "artifacts" / artifact.name)
    monkeypatch.setenv("M2D_CACHE", str(cache))
    (cache / "artifacts").chmod(0o777)
    with pytest.raises(ArtifactRefused, match="artifacts: others may write to it"):
        exporting.find(source, LAYOUT, options_for())
    (cache / "artifacts").chmod(0o700)
    (cache / "artifacts").rename(tmp_path / "artifacts")
    (cache / "artifacts").symlink_to(tmp_path / "artifacts")
    with pytest.raises(ArtifactRefused, match="artifacts: is a symbolic link"):
        exporting.find(source, LAYOUT, options_for())
