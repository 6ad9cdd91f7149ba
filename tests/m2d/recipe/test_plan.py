"""Planning: defaults, overrides, what only the model can judge, and warnings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest

from m2d.errors import RecipeError
from m2d.geometry import ModelGeometry
from m2d.joins import Join
from m2d.model.settings import PUPPET_SAMPLING, SamplingDefaults
from m2d.recipe.fields import default_output
from m2d.recipe.loader import parse_document
from m2d.recipe.overrides import Overrides
from m2d.recipe.plan import ExistingFilm, RunPlan, plan_story
from m2d.recipe.schema import Recipe

GEOMETRY = ModelGeometry(
    spatial_compression=8,
    temporal_compression=4,
    patch_size=2,
    latent_channels=16,
    max_text_tokens=48,
    default_height=64,
    default_width=96,
    default_num_frames=9,
    default_fps=8,
    num_scenes=3,
)

STORY = """\
title: First snow
cast: {Actor1: "round red body, wool cap", Actor2: "square blue body, no hat"}
setting: snowfield at dusk
scenes:
  - Actor1 walks right.
  - {prompt: Actor2 waves., seed: 3, guidance_scale: 1.5, negative_prompt: ""}
  - Actor1 bows. Actor2 bows.
sampling: {seed: 7, guidance_scale: 3, negative_prompt: "night"}
"""


@dataclass(frozen=True, kw_only=True)
class FakeSource:
    """What a plan reads of a model."""

    name: str = "builtin:puppet"
    geometry: ModelGeometry = GEOMETRY
    mask: str = "mask2dit"
    is_joint: bool = True
    sampling: SamplingDefaults = PUPPET_SAMPLING
    stored_dtype: str = "float16"


def plan(text: str = STORY, **arguments: Any) -> RunPlan:
    """Plan the story in `text`."""
    loaded = parse_document(text, Recipe, name="story.yaml")
    return plan_story(loaded.value, cast(Any, FakeSource()), places=loaded.places, **arguments)


def refusals(text: str = STORY, **arguments: Any) -> list[str]:
    """Return the problems of planning the story in `text`."""
    with pytest.raises(RecipeError) as error:
        plan(text, **arguments)
    return [str(problem) for problem in error.value.problems]


def test_every_scene_gets_setting_cast_and_its_own_sampling() -> None:
    first, second, third = plan().scenes
    assert first.prompt == "Snowfield at dusk. Actor1 (round red body, wool cap) walks right."
    assert (first.seed, first.guidance_scale, first.negative_prompt) == (7, 3.0, "night")
    assert (second.seed, second.guidance_scale, second.negative_prompt) == (3, 1.5, "")
    assert third.prompt.count("body") == 2


TUNED = SamplingDefaults(num_inference_steps=30, guidance_scale=6.0, scheduler="dpm", dynamic_guidance=True)


def planned_on(defaults: SamplingDefaults, sampling: str) -> RunPlan:
    """Plan a story with this `sampling` on a model with these defaults."""
    loaded = parse_document(f"{{title: a, scenes: [b], sampling: {sampling}}}", Recipe, name="a.yaml")
    return plan_story(loaded.value, cast(Any, FakeSource(sampling=defaults)))


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        ("{}", (30, 6.0, "dpm", True)),
        ("{num_inference_steps: 7}", (7, 6.0, "dpm", True)),
        ("{scheduler: ddim}", (30, 6.0, "ddim", True)),
        ("{dynamic_guidance: false}", (30, 6.0, "dpm", False)),
        # Of a model's defaults, scheduler and course of the guidance belong to its guidance scale.
        ("{guidance_scale: 3}", (30, 3.0, None, False)),
        ("{guidance_scale: 3, scheduler: euler, dynamic_guidance: true}", (30, 3.0, "euler", True)),
    ],
)
def test_what_a_recipe_leaves_out_of_its_sampling_is_the_models(
    sampling: str, expected: tuple[int, float, str | None, bool]
) -> None:
    made = planned_on(TUNED, sampling)
    found = made.sampling
    assert (
        found.num_inference_steps,
        found.guidance_scale,
        found.scheduler,
        found.dynamic_guidance,
    ) == expected
    assert made.scenes[0].guidance_scale == expected[1]


@pytest.mark.parametrize("sampling", ["{}", "{guidance_scale: 3}", "{dynamic_guidance: false}"])
def test_the_recipe_of_a_plan_gives_the_same_sampling_on_a_model_with_other_defaults(sampling: str) -> None:
    made = planned_on(TUNED, sampling)
    recorded = Recipe.model_validate_json(made.recipe.model_dump_json())
    again = plan_story(recorded, cast(Any, FakeSource()))
    assert again.sampling == made.sampling


def test_a_recipe_with_its_own_sampling_is_recorded_as_before() -> None:
    fields = plan().recipe.model_dump(mode="json")["sampling"]
    assert "dynamic_guidance" not in fields
    assert (fields["num_inference_steps"], fields["guidance_scale"], fields["scheduler"]) == (25, 3.0, None)


def test_a_scene_may_have_a_setting_of_its_own() -> None:
    text = STORY.replace("{prompt: Actor2 waves.", "{setting: forest at night, prompt: Actor2 waves.")
    first, second, third = plan(text).scenes
    assert second.prompt == "Forest at night. Actor2 (square blue body, no hat) waves."
    assert (first, third) == (plan().scenes[0], plan().scenes[2])


def test_a_scene_may_have_the_only_setting() -> None:
    text = STORY.replace("setting: snowfield at dusk\n", "").replace(
        "{prompt:", "{setting: a forest, prompt:"
    )
    assert [scene.prompt[:9] for scene in plan(text).scenes] == ["Actor1 (r", "A forest.", "Actor1 (r"]


def test_sizes_default_to_those_of_the_model() -> None:
    planned = plan()
    assert (planned.scene_geometry.height, planned.scene_geometry.width, planned.fps) == (64, 96, 8)
    assert planned.num_frames == 27
    assert planned.duration_s == 27 / 8
    assert planned.layout.text_tokens == (48, 48, 48)
    assert planned.layout.latent_frames == (3, 3, 3)
    assert planned.layout.tokens_per_frame == 24
    assert planned.warnings == ()


def test_the_output_is_named_after_the_title() -> None:
    assert plan().output == Path("first-snow.mp4")
    assert plan(STORY + "output: x.mp4\n").output == Path("x.mp4")


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("First snow!", "first-snow"),
        ("Die Gr\u00f6\u00dfe", "die-gr\u00f6\u00dfe"),
        ("\u00c9te\u0301 \u00e0 la plage", "\u00e9t\u00e9-\u00e0-la-plage"),
        ("\u96ea\u306e\u65e5", "\u96ea\u306e\u65e5"),
        (
            "\u041f\u0435\u0440\u0432\u044b\u0439 \u0441\u043d\u0435\u0433",
            "\u043f\u0435\u0440\u0432\u044b\u0439-\u0441\u043d\u0435\u0433",
        ),
        ("\u0939\u093f\u0928\u094d\u0926\u0940", "\u0939\u093f\u0928\u094d\u0926\u0940"),
        ('a/b\\c:d*?"<>|', "a-b-c-d"),
        ("../../etc", "etc"),
        ("~ -rf", "rf"),
        ("CON", "story-con"),
        ("\u2603!", "story"),
        # Variation selectors, joiners and keycaps belong to no letter.
        ("\u2764\ufe0f\u200d\U0001f525", "story"),
        ("Story \u2764\ufe0f", "story"),
        ("a\ufe0fb 1\ufe0f\u20e3", "a-b-1"),
        ("\u0301\u3164x\u0302", "x\u0302"),
        ("x" * 200, "x" * 120),
        ("\u96ea" * 200, "\u96ea" * 40),
    ],
)
def test_an_output_keeps_the_letters_of_every_script(title: str, name: str) -> None:
    assert default_output(title) == f"{name}.mp4"
    # It is a name that a recipe may hold.
    assert plan(STORY + f"output: {default_output(title)}\n").output == Path(f"{name}.mp4")


def test_an_output_is_a_name_that_the_file_system_can_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: "ascii")
    monkeypatch.setattr("os.fsencode", lambda name: str(name).encode("ascii"))
    assert default_output("Die Gr\u00f6\u00dfe") == "die-gr-e.mp4"
    assert default_output("\u2764\ufe0f") == "story.mp4"
    with pytest.raises(
        RecipeError, match=r"^story.yaml:9:9: output: größe.mp4: names of files are ascii here"
    ):
        plan(STORY + "output: gr\u00f6\u00dfe.mp4\n")
    named = Overrides(out=Path("x.mp4"))
    assert plan(STORY + "output: gr\u00f6\u00dfe.mp4\n", overrides=named).output == Path("x.mp4")


def test_the_command_line_wins_except_over_a_scene_s_own_seed() -> None:
    wanted = Overrides(
        out=Path("/tmp/x.mp4"), seed=9, num_inference_steps=4, backend="aot", device="cuda", dtype="bfloat16"
    )
    planned = plan(overrides=wanted)
    assert [scene.seed for scene in planned.scenes] == [9, 3, 9]
    assert planned.sampling.num_inference_steps == 4
    assert (planned.backend, planned.device, planned.dtype) == ("aot", "cuda", "bfloat16")
    assert planned.output == Path("/tmp/x.mp4")


def test_the_plan_s_recipe_gives_the_same_plan_without_overrides() -> None:
    planned = plan(overrides=Overrides(seed=9, num_inference_steps=4))
    again = plan_story(planned.recipe, cast(Any, FakeSource()))
    assert again == planned


@pytest.mark.parametrize(
    ("backend", "device", "given", "dtype"),
    [
        ("eager", "cpu", None, "bfloat16"),
        ("eager", "cpu", "float32", "float32"),
        ("onnx", "cpu", None, "float32"),
        ("onnx", "cpu", "bfloat16", "bfloat16"),
        ("eager", "cuda", None, "float16"),
    ],
)
def test_a_cpu_that_is_fast_in_bfloat16_computes_in_it_without_graphs(
    backend: str, device: str, given: str | None, dtype: str
) -> None:
    overrides = Overrides(backend=backend, device=device, dtype=given, cpu_dtype="bfloat16")
    planned = plan(overrides=overrides)
    assert planned.dtype == planned.recipe.backend.dtype == dtype
    assert plan(overrides=replace(overrides, device="cpu", cpu_dtype=None)).dtype == (given or "float32")


def test_overrides_are_checked_like_fields_and_named_by_their_fields() -> None:
    wanted = Overrides(out=Path("x.avi"), seed=-1, num_inference_steps=0, device="gpu", dtype="half")
    found = refusals(overrides=wanted)
    assert sorted(line.split(": ")[1] for line in found) == [
        "backend.device",
        "backend.dtype",
        "output",
        "sampling.num_inference_steps",
        "sampling.seed",
    ]
    assert "command line: sampling.num_inference_steps: must be at least 1, got 0" in found


def test_wrong_sizes_are_reported_together_with_the_nearest_allowed() -> None:
    found = refusals(STORY + "video:\n  num_frames: 48\n  height: 65\n  width: 100\n")
    assert found == [
        "story.yaml:10:15: video.num_frames: 48 is not 4k+1; use 45 or 49",
        "story.yaml:11:11: video.height: 65 is not a positive multiple of 16; use 64 or 80",
        "story.yaml:12:10: video.width: 100 is not a positive multiple of 16; use 96 or 112",
    ]


def test_a_film_too_large_to_write_is_refused() -> None:
    found = refusals(STORY + "video: {height: 1024, upscale: 9}\n")
    assert found == [
        "story.yaml:9:17: video.height: 1024 times upscale 9 is 9216 pixels; at most 8192 are allowed, "
        "use a smaller upscale"
    ]


def test_a_story_longer_than_the_model_sees_is_made_in_windows() -> None:
    many = STORY.replace("  - Actor1 walks right.", "  - Actor1 walks right.\n" * 2 + "  - Actor1 jumps.")
    planned = plan(many)
    assert planned.targets == (0, 1, 2, 3, 4)
    assert [(part.window.scenes, part.window.targets) for part in planned.windows] == [
        ((0, 1, 2), (0, 1, 2)),
        ((0, 2, 3), (3,)),
        ((0, 3, 4), (4,)),
    ]
    recent = plan(f"{many}context: recent\n")
    assert [part.window.scenes for part in recent.windows[1:]] == [(1, 2, 3), (2, 3, 4)]


def test_another_number_of_scenes_can_be_made_together_with_a_warning() -> None:
    planned = plan(f"{STORY}jointly: 2\n")
    assert [(part.window.scenes, part.window.targets) for part in planned.windows] == [
        ((0, 1), (0, 1)),
        ((1, 2), (2,)),
    ]
    assert planned.warnings == (
        "story.yaml:9:10: jointly: 2, but the model was trained on 3 scenes together; others look worse",
    )
    # The record of the film makes it again.
    again = plan_story(planned.recipe, cast(Any, FakeSource()))
    assert again.windows == planned.windows
    assert plan(f"{STORY}jointly: 3\n").warnings == ()


def test_fewer_scenes_than_the_model_was_trained_on_are_a_warning() -> None:
    few = STORY.replace("  - Actor1 bows. Actor2 bows.\n", "")
    assert plan(few).warnings == (
        "story.yaml:5:3: scenes: 2 of the 3 scenes the model was trained on; all look best",
    )


def test_scenes_have_their_own_lengths_and_joins() -> None:
    story = STORY.replace(
        "  - Actor1 bows. Actor2 bows.", "  - {prompt: Actor1 bows., frames: 13, join: {crossfade: 4}}"
    )
    planned = plan(story)
    assert [scene.num_frames for scene in planned.scenes] == [9, 9, 13]
    assert planned.layout.latent_frames == (3, 3, 4)
    assert planned.scenes[2].join == Join(kind="crossfade", num_frames=4)
    assert planned.num_frames == 9 + 9 + 13 - 4


def test_a_scene_that_continues_the_one_before_it_is_made_after_it() -> None:
    planned = plan(STORY.replace("{prompt: Actor2 waves.,", "{prompt: Actor2 waves., join: continue,"))
    assert [part.window.targets for part in planned.windows] == [(0,), (1,), (2,)]


@pytest.mark.parametrize(
    ("scene", "message"),
    [
        ("{prompt: Actor1 bows., frames: 12}", "scenes[2].frames: 12 is not 4k+1; use 9 or 13"),
        (
            "{prompt: Actor1 bows., join: {crossfade: 9}}",
            "scenes[2].join: a crossfade of 9 frames, but the two scenes have room for 8",
        ),
    ],
)
def test_lengths_and_joins_that_do_not_fit_are_refused(scene: str, message: str) -> None:
    (problem,) = refusals(STORY.replace("Actor1 bows. Actor2 bows.", scene))
    assert problem.endswith(message)


def test_the_first_scene_joins_nothing() -> None:
    (problem,) = refusals(
        STORY.replace("- Actor1 walks right.", "- {prompt: Actor1 walks right., join: continue}")
    )
    assert problem.endswith("scenes[0].join: continue, but nothing comes before the first scene; remove it")


def test_scenes_are_appended_to_a_film() -> None:
    before = plan()
    added = plan(film=ExistingFilm(scenes=before.scenes))
    assert added.targets == (3, 4, 5)
    assert added.scenes[:3] == before.scenes
    assert [part.window.scenes for part in added.windows] == [(0, 2, 3), (0, 3, 4), (0, 4, 5)]
    lost = plan(film=ExistingFilm(scenes=before.scenes, first_given=1))
    assert [part.window.scenes for part in lost.windows] == [(1, 2, 3), (1, 3, 4), (1, 4, 5)]


def test_chosen_scenes_are_made_anew_and_keep_their_joins() -> None:
    before = plan(STORY.replace("Actor1 bows. Actor2 bows.", "{prompt: Actor1 bows., join: {crossfade: 2}}"))
    one = STORY[: STORY.index("  - {prompt")] + STORY[STORY.index("sampling") :]
    changed = plan(one, film=ExistingFilm(scenes=before.scenes, chosen=(2,)))
    assert changed.targets == (2,)
    assert changed.scenes[2].prompt.endswith("walks right.")
    assert changed.scenes[2].join == before.scenes[2].join
    assert [(part.window.scenes, part.window.targets) for part in changed.windows] == [((0, 1, 2), (2,))]


def test_an_overlong_prompt_is_refused_with_its_counts() -> None:
    def count(text: str) -> int:
        return 10 * len(text.split())

    found = refusals(count_tokens=count)
    assert len(found) == 3
    assert found[0] == (
        "story.yaml:5:5: scenes[0].prompt: 110 tokens with setting and cast, but the model reads at most 48; "
        "shorten it by 62"
    )


def test_prompt_tokens_are_counted_for_the_plan() -> None:
    scenes = plan(count_tokens=lambda text: len(text.split())).scenes
    assert [scene.num_prompt_tokens for scene in scenes] == [11, 10, 17]


def test_a_mask_the_model_was_not_trained_with_is_warned_about_where_scenes_could_see_each_other() -> None:
    assert plan(STORY + "mask: causal\n").warnings == (
        "story.yaml:9:7: mask: causal, but the model was trained with mask2dit; "
        "scenes may look worse or fit less well",
    )
    assert plan(STORY + "mask: mask2dit\n").warnings == ()
    alone = "title: Snow\nscenes: [It snows.]\nmask: causal\n"
    assert not any("mask" in warning for warning in plan(alone).warnings)


def test_a_story_that_is_probably_not_meant_so_gets_a_warning() -> None:
    text = STORY.replace("Actor2 waves.", "Actor1 (left) waves.").replace(" Actor2 bows.", "")
    warnings = plan(text + "video: {height: 80}\n").warnings
    assert [warning.split(": ", 1)[1] for warning in warnings] == [
        "video.height: pictures of 96x80, but the model was trained with 96x64; others look worse",
        "cast.Actor2: no scene names this actor",
        "scenes[1].prompt: Actor1 has brackets of its own; the cast's description is put before them",
    ]


@pytest.mark.parametrize(
    ("video", "expected"),
    [
        ("{width: 48, height: 96}", "video.height: pictures of 48x96"),
        ("{width: 64}", "video.width: pictures of 64x64"),
        ("{width: 96, height: 64}", ""),
    ],
)
def test_a_picture_of_another_shape_than_the_trained_one_gets_one_warning(video: str, expected: str) -> None:
    warnings = [warning.split(": ", 1)[1] for warning in plan(f"{STORY}video: {video}\n").warnings]
    wanted = f"{expected}, but the model was trained with 96x64; others look worse"
    assert warnings == ([wanted] if expected else [])


def test_a_scene_of_a_length_the_model_was_not_trained_with_gets_a_warning() -> None:
    recipe = Recipe.model_validate({"title": "x", "scenes": ("a", {"prompt": "b", "frames": 13}, "c")})
    (warning,) = plan_story(recipe, cast(Any, FakeSource())).warnings
    assert warning.endswith(
        "scenes[1].frames: 13, but the model was trained with 9; other lengths look worse"
    )


def test_a_plan_needs_no_places() -> None:
    recipe = Recipe.model_validate({"title": "x", "scenes": ("a",) * 4, "video": {"height": 7}})
    with pytest.raises(RecipeError, match=r"recipe: video\.height: 7 is not"):
        plan_story(recipe, cast(Any, FakeSource()))
