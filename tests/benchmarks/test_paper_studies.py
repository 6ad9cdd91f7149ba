from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import paper_studies
from benchmarks.paper_studies import (
    CONDITIONAL,
    MASKS,
    PAGE,
    PRETRAINING,
    RECIPES,
    RESULT,
    SCORES,
    STARTS,
    STUDIES,
    Run,
    measure,
    page_with,
    table,
)
from m2d.masks import rule_of
from m2d.recipe.loader import load_document
from m2d.training.recipe import TrainingRecipe


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands that a study ran; each leaves what the real one leaves."""
    calls: list[list[str]] = []

    def run(*words: Any) -> None:
        calls.append([str(word) for word in words])
        out = Path(words[words.index("--out") + 1])
        if words[0] == "train":
            (out / "model").mkdir(parents=True)
            lines = [
                {"event": "step", "loss": 0.9},
                *({"event": "held-out", "loss": loss} for loss in (0.2, 0.1)),
            ]
            (out / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
        elif words[0] == "generate":
            (out / "puppet-story-01.m2d").mkdir(exist_ok=True)
        else:
            out.mkdir(parents=True, exist_ok=True)
            scored = {"value": 50.0, "low": 49.0, "high": 51.0, "count": 2}
            found = {"figures": dict.fromkeys(SCORES, scored), "set_distance": {"frechet": 3.0}}
            (out / "results.json").write_text(json.dumps(found))

    monkeypatch.setattr(paper_studies, "run_m2d", run)
    monkeypatch.setattr(paper_studies, "draw_films", lambda folder, **_: folder.mkdir())
    return calls


def test_every_mask_is_one_that_m2d_knows() -> None:
    assert all(rule_of(run.mask).may_attend for run in MASKS.values())


@pytest.mark.parametrize(
    ("name", "run"),
    [(name, run) for runs in (STARTS, *STUDIES.values()) for name, run in runs.items()],
)
def test_a_run_changes_its_own_recipe(name: str, run: Run) -> None:
    recipe = load_document(RECIPES / f"{run.recipe}.yaml", TrainingRecipe)
    assert (
        recipe.init == (f"runs/paper/runs/{run.init}" if run.init else "random")
        or run.recipe == "pretraining"
    )
    for setting in run.settings:
        field, _, _ = setting.partition("=")
        value: Any = recipe
        for part in field.split("."):
            value = getattr(value, part)
        assert value is not None, name


def test_half_of_the_samples_is_the_run_on_all_stories_with_pretraining() -> None:
    half = load_document(RECIPES / "conditional.yaml", TrainingRecipe)
    full = load_document(RECIPES / "pretraining.yaml", TrainingRecipe)
    assert CONDITIONAL["pretrain-100"].settings == ("objective.conditional_probability=0.5",)
    assert PRETRAINING["pretrain-100"].settings == (f"data.num_stories={full.data.num_stories}",)
    assert half.model_copy(update={"title": full.title}) == full


def test_the_page_shows_the_results() -> None:
    report = json.loads(RESULT.read_text())
    text = PAGE.read_text("utf-8")
    assert page_with(report, text) == text
    for study, runs in STUDIES.items():
        assert len(table(report, study).splitlines()) == 2 + len(runs)


def test_a_run_and_its_start_are_trained_once_and_only_missing_films_are_made(
    tmp_path: Path, called: list[list[str]]
) -> None:
    run = MASKS["mask-full"]
    found = measure("mask-full", run, tmp_path, num_stories=2)
    assert (found["held_out_loss"], found["frechet"]) == (0.1, 3.0)
    assert [words[0] for words in called] == ["train", "train", "generate", "eval"]
    base, full, films, _ = called
    assert "--init" not in base
    assert full[full.index("--init") + 1] == str(tmp_path / "runs" / "base" / "model")
    assert "mask=full" in full
    assert "mask=full" in films
    called.clear()
    assert measure("mask-full", run, tmp_path, num_stories=2) == found
    assert [words[0] for words in called] == ["generate", "eval"]
    assert [word for word in called[0] if word.endswith(".yaml")] == [
        str(paper_studies.STORIES / "puppet-story-02.yaml")
    ]


def test_a_stopped_training_goes_on(tmp_path: Path, called: list[list[str]]) -> None:
    (tmp_path / "base" / "checkpoints").mkdir(parents=True)
    model = paper_studies.train("base", STARTS["base"], tmp_path)
    assert called[0][-1] == "--resume"
    assert model == tmp_path / "base" / "model"
