from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from typer.testing import Result

from tests.m2d.puppet.training.tiny_helpers import CODEC, TEXT

Run = Callable[..., Result]
FEW = {"steps": 1, "evaluate_every_steps": 100}


def test_helpers_are_trained_and_packed_from_the_command_line(m2d: Run, folder: Path) -> None:
    (folder / "puppet-codec.yaml").write_text(json.dumps(CODEC | FEW))
    (folder / "puppet-text.yaml").write_text(json.dumps(TEXT | FEW))
    for part in ("codec", "text"):
        trained = m2d("puppet", "train", part, f"puppet-{part}.yaml", "--out", f"runs/{part}", "-q")
        assert (trained.exit_code, trained.stdout) == (0, f"runs/{part}\n"), trained.stderr
    runs = ("--codec", "runs/codec", "--text", "runs/text", "--recipes", ".")
    packed = m2d("puppet", "pack", "--out", "model", *runs, "-q")
    assert (packed.exit_code, packed.stdout) == (0, "model\n"), packed.stderr
    assert (folder / "model" / "vae" / "config.json").exists()


def test_a_run_without_checkpoints_is_one_line_and_exit_code_2(m2d: Run, folder: Path) -> None:
    (folder / "puppet-codec.yaml").write_text(json.dumps(CODEC))
    (folder / "puppet-text.yaml").write_text(json.dumps(TEXT))
    result = m2d(
        "puppet", "pack", "--out", "model", "--codec", "none", "--text", "none", "--recipes", ".", "-q"
    )
    assert result.exit_code == 2
    assert result.stderr == "error: none: no checkpoint that verifies; train it first\n"
    assert not (folder / "model").exists()


def test_an_unknown_helper_names_the_known_ones(m2d: Run) -> None:
    result = m2d("puppet", "train", "voice", "voice.yaml", "--out", "runs/voice")
    assert result.exit_code == 2
    for part in ("codec", "text", "reader"):
        assert part in result.stderr


def test_a_missing_recipe_is_bad_input(m2d: Run) -> None:
    result = m2d("puppet", "train", "codec", "nowhere.yaml", "--out", "runs/codec")
    assert result.exit_code == 2
    assert "nowhere.yaml" in result.stderr


def test_stories_are_rendered_with_their_description(m2d: Run, folder: Path) -> None:
    words = ("puppet", "render", "--stories", "2", "--out", "data", "--format", "csv", "--side", "16", "-q")
    result = m2d(*words)
    assert (result.exit_code, result.stdout) == (0, "data/pretrain.csv\n"), result.stderr
    assert len((folder / "data" / "pretrain.csv").read_text().splitlines()) == 7
    assert len(list((folder / "data" / "videos").iterdir())) == 6
    again = m2d(*words)
    assert again.exit_code == 2
    assert "data/pretrain.csv: exists already; choose another --out" in again.stderr


def test_rendered_stories_may_wear_another_hat(m2d: Run, folder: Path) -> None:
    words = ("puppet", "render", "--stories", "2", "--side", "16", "--scenes", "1", "-q")
    assert m2d(*words, "--out", "plain").exit_code == 0
    hats = ("--hat", "party hat=crown", "--hat", "no hat=crown", "--hat", "top hat=crown")
    assert m2d(*words, "--out", "crowned", *hats, "--hat", "wool cap=crown").exit_code == 0
    plain, crowned = ((folder / name / "stories.jsonl").read_text() for name in ("plain", "crowned"))
    captions = [
        [json.loads(line)["scenes"][0]["caption"] for line in t.splitlines()] for t in (plain, crowned)
    ]
    assert captions[0] == captions[1]
    assert plain != crowned
    for words_of_hat, message in ((["crown"], "use HAT=OTHER"), (["fez=crown"], "hats: 'fez' unknown")):
        refused = m2d(*words, "--out", "no", "--hat", *words_of_hat)
        assert refused.exit_code == 2
        assert message in refused.stderr
