from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.puppet_films import (
    Sampling,
    SceneGenerator,
    default_scene,
    read_films,
    render_films,
    through_vae,
)
from benchmarks.quality import STORY_SEED, Measurement, measure
from benchmarks.quality_targets import Check, judge, summary
from m2d.errors import CheckpointError
from m2d.evaluation.intervals import Tally
from m2d.families.loading import load_vae
from m2d.families.source import resolve_model
from m2d.progress import SilentReporter
from m2d.puppet.attribute_classifier import CLASSIFIER_FILE, AttributeClassifier, load_classifier
from m2d.puppet.story_scores import DIFFERENCES, story_clips, tally_prompted, tally_unprompted
from tests.m2d.model.tiny_model import build_tiny_model

PROMPTS = ("Park at dusk. Actor1 (round red body, no hat) jumps.", "Park at dusk. Actor1 waves.")


@pytest.fixture(scope="module")
def measurement(tmp_path_factory: pytest.TempPathFactory) -> Measurement:
    """Two stories of the tiny model, read by a reader that never learned anything."""
    source = resolve_model(str(build_tiny_model(tmp_path_factory.mktemp("models") / "tiny")))
    torch.manual_seed(0)
    scene = default_scene(source)
    reader = AttributeClassifier(num_frames=scene.num_frames, height=scene.height, width=scene.width)
    save_file(reader.state_dict(), source.path / CLASSIFIER_FILE)
    return Measurement(
        source=source,
        reader=source.path / CLASSIFIER_FILE,
        sampling=Sampling(
            num_inference_steps=2, guidance_scale=2.0, scheduler="ddim", device="cpu", dtype="float32"
        ),
        num_stories=2,
        num_reader_clips=8,
        num_codec_clips=4,
    )


@pytest.fixture(scope="module")
def report(measurement: Measurement) -> dict[str, Any]:
    return measure(measurement, SilentReporter())


def test_every_way_of_making_scenes_is_scored(report: Mapping[str, Any]) -> None:
    assert set(report["figures"]) == {"rendered", "codec", "mask2dit", "isolated"}
    assert {group["setting"]["count"] for group in report["figures"].values()} == {6}


def test_every_target_of_the_model_is_checked(report: Mapping[str, Any]) -> None:
    names = [check["name"] for check in report["checks"]]
    assert names == [
        *("colour", "shape", "hat", "setting", "time", "on_stage", "action", "leakage"),
        *("drift.tree_x", "drift.sun_x", "drift.horizon_y", "drift.actor_size", "drift.all"),
        *(f"reader.{name}" for name in ("setting", "time", "on_stage", "shape", "colour", "hat")),
        *("reader.action", "reader.eyes"),
        *("codec.psnr_db", "codec.psnr_actors_db"),
    ]
    assert report["all_hold"] is False


def test_report_is_json_that_names_no_folder(report: Mapping[str, Any], measurement: Measurement) -> None:
    text = json.dumps(report, allow_nan=False)
    assert str(measurement.source.path.parent) not in text
    assert report["model"]["digest"] == measurement.source.digest


def test_single_scenes_are_held_to_their_prompts_alone(measurement: Measurement) -> None:
    report = measure(replace(measurement, is_single=True, num_stories=1), SilentReporter())
    assert set(report["figures"]) == {"rendered", "codec", "single"}
    assert not any("drift" in check["name"] or check["name"] == "leakage" for check in report["checks"])


def test_changing_stories_are_held_to_the_setting_of_every_scene(measurement: Measurement) -> None:
    what = replace(measurement, is_changing=True)
    settings = [{(each.setting, each.time) for each in map(s.backdrop_of, s.scenes)} for s in what.stories()]
    assert min(map(len, settings)) > 1
    report = measure(what, SilentReporter())
    names = [check["name"] for check in report["checks"]]
    assert names[7:9] == ["leakage", "leakage.setting"]
    assert names[13:15] == ["drift.all", "drift.eyes"]
    assert "change place or time" in report["what"]


def test_a_model_folder_without_reader_is_refused(measurement: Measurement) -> None:
    missing = replace(measurement, reader=measurement.source.path / "none.safetensors")
    with pytest.raises(
        CheckpointError, match=r"none\.safetensors: not an attribute classifier for 9 frames of 32x32"
    ):
        measure(missing, SilentReporter())


def test_scenes_see_each_other_unless_isolated(measurement: Measurement) -> None:
    generator = SceneGenerator(measurement.source, measurement.sampling)
    other = (PROMPTS[0], "City at night. Actor2 bows.")
    for mask, is_equal in (("isolated", True), ("mask2dit", False)):
        first, second = (generator.generate(prompts, mask=mask, seed=1)[0] for prompts in (PROMPTS, other))
        assert torch.equal(first, second) is is_equal


def test_equal_seeds_give_equal_scenes(measurement: Measurement) -> None:
    generator = SceneGenerator(measurement.source, measurement.sampling)
    first, again, other = (generator.generate(PROMPTS, mask="mask2dit", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_all_ways_give_frames_of_one_shape_and_range(measurement: Measurement) -> None:
    clips = story_clips(measurement.stories()[:1])
    rendered = render_films(clips, scene=default_scene(measurement.source))
    vae = load_vae(measurement.source, device="cpu", dtype=torch.float32)
    generator = SceneGenerator(measurement.source, measurement.sampling)
    made = generator.generate(("Park at noon. Actor1 jumps.",) * 3, mask="mask2dit", seed=STORY_SEED)
    for frames_BPCHW in (rendered, through_vae(vae, rendered), made):
        assert frames_BPCHW.shape == (3, 9, 3, 32, 32)
        assert frames_BPCHW.min() >= 0
        assert frames_BPCHW.max() <= 1


def test_reading_in_parts_reads_the_same(measurement: Measurement) -> None:
    reader = load_classifier(measurement.reader, num_frames=9, height=32, width=32)
    frames_BPCHW = torch.rand(40, 9, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    in_parts, whole = read_films(reader, frames_BPCHW), reader.read(frames_BPCHW)
    assert all(torch.equal(in_parts.classes[name], whole.classes[name]) for name in whole.classes)
    torch.testing.assert_close(in_parts.numbers, whole.numbers)


@pytest.mark.parametrize(
    ("value", "bound", "holds"),
    [
        (0.9, "at least", True),
        (0.89, "at least", False),
        (0.9, "at most", True),
        (0.91, "at most", False),
        (None, "at most", False),
    ],
)
def test_a_target_holds_on_its_own_side(value: float | None, bound: str, holds: bool) -> None:
    assert Check(name="x", value=value, bound=bound, target=0.9).holds is holds


def test_drift_compares_scenes_with_and_without_sight_of_each_other() -> None:
    def tallies(difference: float) -> dict[str, Tally]:
        right = Tally(amounts_S=np.ones(3), counts_S=np.ones(3))
        drift = Tally(amounts_S=np.full(3, difference), counts_S=np.ones(3))
        names = (*("colour", "shape", "hat", "setting", "time", "on_stage", "action", "leakage"),)
        return dict.fromkeys(names, right) | dict.fromkeys(DIFFERENCES.values(), drift)

    report = judge(
        {"mask2dit": tallies(0.1), "isolated": tallies(0.4)},
        reader_report={"accuracy": {"hat": 0.97}},
        codec_report={"psnr_db": 30.0, "psnr_actors_db": 23.0},
    )
    assert report["drift_relative_to_isolated"]["sun_x"]["value"] == 0.25
    missed = [line.split()[1] for line in summary(report).splitlines() if line.startswith("MISS")]
    assert missed == ["leakage", "reader.hat", "codec.psnr_actors_db"]


def test_held_out_stories_score_the_same_in_any_number(measurement: Measurement) -> None:
    few, more = measurement.stories(), replace(measurement, num_stories=4).stories()
    assert more[: len(few)] == few


def test_scoring_needs_every_scene_of_every_story(measurement: Measurement) -> None:
    reader = load_classifier(measurement.reader, num_frames=9, height=32, width=32)
    reading = read_films(reader, torch.zeros(5, 9, 3, 32, 32))
    for tally in (tally_prompted, tally_unprompted):
        with pytest.raises(ValueError, match="a reading of 5 scenes for 2 stories of 3"):
            tally(measurement.stories(), reading)
