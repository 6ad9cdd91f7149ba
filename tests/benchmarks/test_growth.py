"""The growth benchmark: what it compares, and that its measures can fail."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import growing_films, growth, growth_times
from benchmarks.growing_films import Films, prompt_of, recipe_of
from benchmarks.growth import background, checks_of, drift, middle_gaps
from benchmarks.growth_times import Stopwatch
from m2d.errors import CheckpointError
from m2d.families.loading import load_vae
from m2d.families.source import resolve_model
from m2d.progress import Clock, SilentReporter
from m2d.puppet.attribute_classifier import Reading
from m2d.puppet.captions import plain_caption
from m2d.puppet.render import Clip, render_clips
from m2d.puppet.story import sample_story
from m2d.recipe.cast import scene_prompt

STORY = sample_story(seed=1, index=3, num_scenes=3)


def reading(*rows: tuple[float, ...]) -> Reading:
    return Reading(classes={}, numbers=torch.tensor(rows))


@pytest.mark.parametrize("number", range(3))
def test_a_recipe_s_prompt_expands_to_the_caption_that_the_model_learned(number: int) -> None:
    recipe = recipe_of(STORY, resolve_model("builtin:puppet"), scenes=range(3), steps=2, guidance=1.0)
    expanded = scene_prompt(recipe.scenes[number].prompt, cast=recipe.cast, setting=recipe.setting)
    assert expanded == plain_caption(STORY, STORY.scenes[number])
    assert prompt_of(STORY, number) == recipe.scenes[number].prompt


def test_drift_is_nothing_when_scenes_agree_and_all_when_they_are_as_far_apart_as_other_stories() -> None:
    first = reading((0.0,) * 4, (1.0,) * 4)
    assert drift(first, first)["all"] == 0
    half = reading((0.5,) * 4, (0.5,) * 4)
    assert drift(first, half)["all"] == pytest.approx(1.0)


def test_background_ignores_actors_and_sees_a_tint() -> None:
    clips = [Clip(STORY, STORY.scenes[0]), Clip(STORY, STORY.scenes[-1])]
    first, last = render_clips(clips, num_frames=9, height=64, width=64)
    same = background(STORY, first, last)
    assert same["pixels"] < 0.01
    assert same["colours"] < 0.01
    tinted = background(STORY, first, (last + 10 / 255).clamp(0, 1))
    assert tinted["pixels"] == pytest.approx(10, abs=1.5)
    assert tinted["colours"] == pytest.approx(10, abs=1.5)


def test_contrast_and_colour_are_compared_with_the_drawing() -> None:
    drawn = render_clips(
        [Clip(STORY, STORY.scenes[0]), Clip(STORY, STORY.scenes[-1])], num_frames=9, height=64, width=64
    )
    same = growth.changes(STORY, *drawn)
    assert all(abs(change) < 1e-6 for change in same.values())
    grey_PCHW = drawn[1].mean((1, 2, 3), keepdim=True)
    faded = growth.changes(STORY, drawn[0], (drawn[1] + grey_PCHW) / 2)
    assert faded["contrast"] == pytest.approx(-0.5, abs=0.02)


def test_the_middle_scene_is_compared_with_both_neighbours() -> None:
    gaps = middle_gaps(reading((0.0,), (0.3,), (0.1,), (0.5,), (0.5,), (0.4,)))
    assert gaps.amounts_S.tolist() == pytest.approx([0.3 + 0.2, 0.1])
    assert gaps.counts_S.tolist() == [2, 2]


def test_a_stopwatch_tells_how_long_each_unit_took(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([1.0, 1.5, 3.5])
    monkeypatch.setattr(growth_times.time, "perf_counter", lambda: next(ticks))
    watch = Stopwatch()
    with watch.stage("denoise", total=2) as progress:
        progress.advance()
        progress.advance()
    assert watch.unit_seconds("denoise") == [0.5, 2.0]


def test_films_are_made_grown_and_re_rolled_by_the_tasks_themselves(tmp_path: Path) -> None:
    source = resolve_model("builtin:puppet")
    codec = load_vae(source, device="cpu", dtype=torch.float32)
    films = Films(folder=tmp_path, source=source, vae=codec, steps=1, guidance=1.0)
    made = films.generate(STORY, num_scenes=2, name="film")
    grown = films.extend(made.film, prompt_of(STORY, 2))
    assert grown.film == made.film
    assert growing_films.frames_of(grown.film, codec).shape == (3, 9, 3, 64, 64)
    anew = films.reroll(grown.film, 1)
    digests = [[scene.frames_sha256 for scene in each.provenance.scenes] for each in (grown, anew)]
    assert digests[0][::2] == digests[1][::2]
    assert digests[0][1] != digests[1][1]


def report(**changes: float) -> dict[str, object]:
    figures = {
        "on_stage": 1.0,
        "colour": 1.0,
        "setting": 1.0,
        "all": 0.1,
        "colours": 1.0,
        "change_contrast": 0.0,
        "change_colour": 0.0,
        "kept": 1.0,
        "relative": 1.0,
        "time": 1.0,
        "each": 1.0,
    } | changes
    shown = {name: {"value": figures[name]} for name in ("on_stage", "colour", "setting")}
    return {
        "chain": {
            "last_scene": shown,
            "drift": {"all": figures["all"]},
            "background_levels": {"colours": figures["colours"]},
            "changes": {name: {"value": figures[f"change_{name}"]} for name in ("contrast", "colour")},
        },
        "reroll": {"others_identical": figures["kept"], "relative": {"value": figures["relative"]}},
        "time": {
            "one_run": {"last_to_first": figures["time"]},
            "a_command_each": {"last_to_first": figures["each"]},
        },
    }


@pytest.mark.parametrize(
    ("figure", "value", "missed"),
    [
        ("on_stage", 0.94, "last scene.on_stage"),
        ("colour", 0.89, "last scene.colour"),
        ("setting", 0.89, "last scene.setting"),
        ("all", 0.41, "drift over the chain"),
        ("change_contrast", -0.04, "change of contrast"),
        ("change_colour", 0.04, "change of colour"),
        ("colours", 6.1, "background"),
        ("kept", 0.99, "re-roll keeps others"),
        ("relative", 1.11, "re-roll drift"),
        ("time", 1.11, "time, 12th to 1st"),
        ("each", 1.11, "time, 12th to 1st, a command each"),
    ],
)
def test_every_target_can_be_missed(figure: str, value: float, missed: str) -> None:
    assert all(check.holds for check in checks_of(report()))
    assert [check.name for check in checks_of(report(**{figure: value})) if not check.holds] == [missed]


def test_times_measured_anew_leave_all_other_figures_and_refuse_another_model_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    report = json.loads(growth.RESULTS.read_bytes())
    source = SimpleNamespace(digest=report["model"]["digest"])
    times = {
        "one_run": {"seconds_per_scene": [1.0] * 12, "last_to_first": 1.0},
        "a_command_each": {"seconds_per_command": [1.0] * 12, "last_to_first": 1.2},
    }
    monkeypatch.setattr(growth, "measure_time", lambda *_: times)
    films: Any = SimpleNamespace(source=source)
    changed = growth.with_times(report, films, Clock(SilentReporter()))
    assert changed["time"] == times
    assert {name: changed[name] for name in ("chain", "reroll")} == {
        name: report[name] for name in ("chain", "reroll")
    }
    assert changed["checks"][:-2] == report["checks"][:-2]
    assert [check["holds"] for check in changed["checks"][-2:]] == [True, False]
    source.digest = "another"
    with pytest.raises(CheckpointError, match="belong to another model"):
        growth.with_times(report, films, Clock(SilentReporter()))
