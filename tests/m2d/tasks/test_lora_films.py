"""Films made with LoRAs: what is recorded, what later runs take from the record, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.decoded_film import read_film
from m2d.errors import InputError, M2DError, RecipeError
from m2d.model.lora_file import lora_digest
from m2d.pipeline.planning import plan_for_model
from m2d.recipe.overrides import Overrides
from m2d.recipe.schema import LoraChoice
from tests.m2d.model.lora_files import matrices, write_kohya, write_peft
from tests.m2d.tasks.studio import Stopping, Studio, frames_of, latents_of, open_studio


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return open_studio(tmp_path_factory.mktemp("studio"))


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return renamed(tmp_path_factory.mktemp("one"), "one.safetensors", 1)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return renamed(tmp_path_factory.mktemp("two"), "two.safetensors", 2)


def renamed(folder: Path, name: str, seed: int) -> Path:
    return write_kohya(folder, matrices(seed)).rename(folder / name)


def choices(*paths: Path | str, **more: Any) -> dict[str, Any]:
    return {"overrides": {"loras": tuple(LoraChoice(path=str(path), **more) for path in paths)}}


@pytest.fixture(scope="module")
def film(studio: Studio, one: Path) -> Path:
    """Three scenes with one LoRA of all scenes."""
    return studio.generate(name="styled", loras=({"path": str(one), "scale": 0.5},)).film


@pytest.fixture(scope="module")
def mixed(studio: Studio, one: Path, two: Path) -> Path:
    """Three scenes; the second and the third have LoRAs of their own, and none sees another."""
    loras = ({"path": str(one), "scenes": (2,)}, {"path": str(two), "scenes": (3,)})
    return studio.generate(name="mixed", loras=loras, mask="isolated").film


def recorded(film: Path) -> list[dict[str, Any]]:
    provenance = read_film(film).provenance
    assert provenance is not None
    found: Any = provenance.last_run.recipe.get("loras", [])
    return list(found)


def test_the_record_names_file_digest_scale_and_scenes(film: Path, mixed: Path, one: Path, two: Path) -> None:
    assert recorded(film) == [
        {"path": "one.safetensors", "scale": 0.5, "scenes": None, "sha256": lora_digest(one)}
    ]
    assert [(each["path"], each["scenes"], each["sha256"]) for each in recorded(mixed)] == [
        ("one.safetensors", [2], lora_digest(one)),
        ("two.safetensors", [3], lora_digest(two)),
    ]


def test_a_film_without_loras_is_recorded_as_before(studio: Studio) -> None:
    plan = studio.plan(1)
    assert "loras" not in plan.recipe.model_dump(mode="json")


def test_isolated_scenes_have_the_latents_of_films_made_with_their_lora_alone(
    studio: Studio, mixed: Path, one: Path, two: Path
) -> None:
    plain, first, second = (
        latents_of(studio.generate(name=f"all {number}", mask="isolated", loras=loras).film)
        for number, loras in enumerate([(), ({"path": str(one)},), ({"path": str(two)},)])
    )
    for ours, expected, other in zip(
        latents_of(mixed), (plain[0], first[1], second[2]), (first[0], plain[1], plain[2]), strict=True
    ):
        np.testing.assert_allclose(ours, expected, atol=1e-4)
        assert np.abs(ours - other).max() > 1e-2


@pytest.mark.parametrize("name", ["film", "mixed"])
def test_a_film_is_reproduced_when_its_loras_are_given(
    studio: Studio, one: Path, two: Path, name: str, request: pytest.FixtureRequest
) -> None:
    film: Path = request.getfixturevalue(name)
    given = choices(one) if name == "film" else choices(one, two)
    again = studio.reproduce(film, out=studio.path(f"{name} again"), **given)
    assert again.differing == ()
    assert recorded(again.result.film) == recorded(film)


def test_a_film_whose_lora_is_gone_or_changed_is_not_reproduced(
    studio: Studio, film: Path, one: Path, two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = studio.path("not again")
    with pytest.raises(RecipeError, match=r"one\.safetensors: missing; the film was made with it \(sha256"):
        studio.reproduce(film, out=out)
    (tmp_path / "one.safetensors").write_bytes(two.read_bytes())
    with pytest.raises(RecipeError, match=r"one\.safetensors: has changed: its sha256 begins with"):
        studio.reproduce(film, out=out)
    with pytest.raises(InputError, match=r"lora: .*two\.safetensors: .* was not made with this file"):
        studio.reproduce(film, out=out, **choices(two))
    (tmp_path / "one.safetensors").write_bytes(one.read_bytes())
    assert studio.reproduce(film, out=out).differing == ()


def test_a_run_is_resumed_with_the_same_lora_alone(
    studio: Studio, one: Path, two: Path, tmp_path: Path
) -> None:
    path = tmp_path / "style.safetensors"
    path.write_bytes(one.read_bytes())
    loras = ({"path": str(path)},)
    straight = studio.generate(1, name="straight", loras=loras)
    with pytest.raises(M2DError):
        studio.generate(1, name="stopped", loras=loras, reporter=Stopping(stage_to_stop="denoise", after=1))
    path.write_bytes(two.read_bytes())
    with pytest.raises(InputError, match=r"another request: loras\[0\]\.sha256 was"):
        studio.generate(1, name="stopped", loras=loras, options={"resume": True})
    path.unlink()
    with pytest.raises(RecipeError, match=r"loras\[0\]\.path: .*style\.safetensors: there is no such file"):
        studio.generate(1, name="stopped", loras=loras, options={"resume": True})
    path.write_bytes(one.read_bytes())
    with pytest.raises(InputError, match=r"another request: loras\[0\]\.scale was 1.0 and is 0.5"):
        studio.generate(
            1, name="stopped", loras=({"path": str(path), "scale": 0.5},), options={"resume": True}
        )
    resumed = studio.generate(1, name="stopped", loras=loras, options={"resume": True})
    assert frames_of(resumed.provenance) == frames_of(straight.provenance)


def test_an_extension_inherits_the_loras_of_all_scenes(
    studio: Studio, film: Path, one: Path, two: Path
) -> None:
    longer = studio.extend(film, "a fish", out=studio.path("longer"), **choices(one))
    assert recorded(longer.film) == recorded(film)
    whole = studio.generate(
        name="whole",
        scenes=("a red ball", "a blue ball", "a green ball", "a fish"),
        loras=({"path": str(one), "scale": 0.5},),
    )
    assert frames_of(longer.provenance) == frames_of(whole.provenance)
    other = studio.extend(film, "a fish", out=studio.path("other"), **choices(two, scale=2.0))
    assert [(each["path"], each["scale"]) for each in recorded(other.film)] == [("two.safetensors", 2.0)]
    assert frames_of(other.provenance)[3] != frames_of(longer.provenance)[3]


def test_context_is_computed_with_the_loras_of_its_own(
    studio: Studio, one: Path, two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    loras = ({"path": str(one), "scenes": (1,)}, {"path": str(two), "scenes": (3,)})
    scenes = ("a red ball", "a blue ball", "a green ball", "a fish")
    start = studio.generate(name="start", loras=loras).film
    whole = studio.generate(name="four", scenes=scenes, loras=loras)
    with pytest.raises(
        RecipeError, match=r"scene 1 of the film, which is context here: one\.safetensors: missing"
    ):
        studio.extend(start, "a fish", out=studio.path("four by extension"))
    longer = studio.extend(start, "a fish", out=studio.path("four by extension"), **choices(one, two))
    assert recorded(longer.film) == []
    assert frames_of(longer.provenance) == frames_of(whole.provenance)


def test_a_rerolled_scene_keeps_the_lora_of_its_own(
    studio: Studio, mixed: Path, one: Path, two: Path
) -> None:
    rerolled = studio.reroll(mixed, 2, seed=5, out=studio.path("rerolled"), **choices(one, two))
    assert [(each["path"], each["scenes"]) for each in recorded(rerolled.film)] == [("two.safetensors", [1])]
    # The seed is the story's: the same scene again.
    np.testing.assert_allclose(latents_of(rerolled.film)[2], latents_of(mixed)[2], atol=1e-4)


def test_files_of_a_recipe_are_reported_together_with_its_other_mistakes(
    studio: Studio, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError) as caught:
        studio.plan(loras=(str(tmp_path / "no.safetensors"),), video={"height": 17})
    assert [problem.field for problem in caught.value.problems] == ["loras[0].path", "video.height"]


def test_scenes_of_a_lora_are_those_of_the_recipe(studio: Studio, one: Path) -> None:
    with pytest.raises(ValueError, match="4; the recipe has 3 scenes, from 1"):
        studio.plan(loras=({"path": str(one), "scenes": (4,)},))


def test_a_peft_adapter_that_names_no_strength_is_warned_about(studio: Studio, tmp_path: Path) -> None:
    path = write_peft(tmp_path, matrices())
    (tmp_path / "adapter_config.json").unlink()
    plan = studio.plan(1, loras=(str(path),))
    assert any("no adapter_config.json beside it" in warning for warning in plan.warnings)


def test_given_files_replace_those_of_a_recipe(studio: Studio, one: Path, two: Path) -> None:
    recipe = studio.plan(1, loras=(str(one),)).recipe
    overrides = Overrides(loras=(LoraChoice(path=str(two), scale=0.25),))
    plan = plan_for_model(recipe, studio.source, overrides=overrides)
    assert [(use.file.path, use.scale, use.scenes) for use in plan.loras] == [(two, 0.25, None)]
    assert json.loads(json.dumps(plan.recipe.model_dump(mode="json")))["loras"][0]["path"] == two.name
