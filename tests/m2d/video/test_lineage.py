"""What a film's runs and windows tell of how it grew."""

from __future__ import annotations

import time

import pytest

from m2d.joins import Join
from m2d.video.lineage import (
    describe_means,
    describe_run,
    hints,
    lineage,
    name_scenes,
    scene_origin,
    stale,
)
from m2d.video.provenance import MachineRecord, Provenance
from tests.m2d.video.grown_films import EXTEND, FOOTAGE, GENERATE, REROLL, RunPasses, grown


def test_every_run_is_told_with_what_it_made_and_what_is_left_of_it() -> None:
    provenance, _ = grown()
    runs = lineage(provenance)
    assert [(run.number, run.kind, run.made, run.replaced) for run in runs] == [
        (1, "generate", (0, 1, 2), (1,)),
        (2, "extend", (3, 4), ()),
        (3, "reroll", (1,), ()),
    ]
    assert [describe_run(provenance, run) for run in runs] == [
        "scenes 1-3 together; scene 2 since replaced",
        "scene 4 from scenes 2-3; scene 5 from scenes 3-4",
        "scene 2 from scenes 1 and 3",
    ]


@pytest.mark.parametrize(
    ("windows", "told"),
    [
        (
            [((0, 1, 2), (0, 1, 2)), ((1, 2, 3), (3,)), ((2, 3, 4), (4,)), ((3, 4, 5), (5,))],
            "scenes 1-3 together; scenes 4-6 one by one, each from the 2 scenes before it",
        ),
        (
            [((0, 1, 2), (0, 1, 2)), ((0, 2, 3), (3,)), ((0, 3, 4), (4,)), ((0, 4, 5), (5,))],
            "scenes 1-3 together; scenes 4-6 one by one, each from scene 1 and the scene before it",
        ),
        (
            [((0, 1), (0, 1)), ((0, 1, 2), (2,)), ((0, 2, 3), (3,)), ((0, 3, 4), (4,)), ((0, 4, 5), (5,))],
            "scenes 1-2 together; scenes 3-6 one by one, each from scene 1 and the scene before it",
        ),
        (
            [((0,), (0,)), ((0, 1), (1,)), ((1, 2), (2,)), ((2, 3), (3,)), ((3, 4, 5), (4, 5))],
            "scene 1; scenes 2-4 one by one, each from the scene before it; scenes 5-6 together from scene 4",
        ),
        ([((0,), (0,)), ((1,), (1,)), ((2,), (2,))], "scene 1; scene 2; scene 3"),
        (
            [((0, 1, 2), (1,)), ((2, 3, 4), (3,)), ((4, 5), (5,))],
            "scene 2 from scenes 1 and 3; scene 4 from scenes 3 and 5; scene 6 from scene 5",
        ),
    ],
)
def test_windows_that_step_through_a_story_are_told_in_one_part(
    windows: list[tuple[tuple[int, ...], tuple[int, ...]]], told: str
) -> None:
    provenance, _ = grown((("generate", windows),), (0,) * 6)
    (run,) = lineage(provenance)
    assert describe_run(provenance, run) == told


def test_footage_is_told_with_the_film_it_came_from_and_was_made_by_nothing() -> None:
    provenance, _ = grown((FOOTAGE, ("extend", [((0, 1, 2), (2,))])), (0, 0, 1))
    footage, extend = lineage(provenance)
    assert describe_run(provenance, footage) == "scenes 1-2 taken from holiday.mov"
    assert describe_means(footage) == ()
    assert dict(describe_means(extend))["sampling"] == "25 steps, scheduler ddim"
    assert scene_origin(provenance, 0).window is None


def test_a_scene_knows_its_context_and_what_it_was_made_with() -> None:
    provenance, _ = grown()
    assert scene_origin(provenance, 0).together == (1, 2)
    assert scene_origin(provenance, 1).context == (0, 2)
    origin = scene_origin(provenance, 4)
    assert (origin.run, origin.window, origin.context, origin.together) == (1, 1, (2, 3), ())


TWICE: RunPasses = ("reroll", [((1, 2, 3), (3,))])
TWO_WINDOWS: RunPasses = ("reroll", [((0, 1, 2), (1,)), ((1, 2, 3), (2,))])


@pytest.mark.parametrize(
    ("runs", "made_by", "joins", "outdated"),
    [
        # Scene 4 was made from the old scene 2, and the new one did not see scene 4.
        pytest.param((GENERATE, EXTEND, REROLL), (0, 2, 0, 1, 1), {}, {3: (1,)}, id="context re-rolled"),
        # Scenes 1 and 3 were the new scene 2's context: they fit.
        pytest.param((GENERATE, REROLL), (0, 1, 0), {}, {}, id="neighbours seen"),
        pytest.param(
            (GENERATE, EXTEND, REROLL, TWICE), (0, 2, 0, 3, 1), {}, {4: (3,)}, id="the hint followed"
        ),
        # It was seen, but begins with the last frame of the old scene 2.
        pytest.param(
            (GENERATE, REROLL), (0, 1, 0), {2: Join(kind="continue")}, {2: (1,)}, id="continued scene"
        ),
        # The first and the last scene each saw the old version of one that was made anew without them.
        pytest.param(
            (("generate", [((0, 1, 2, 3), (0, 1, 2, 3))]), TWO_WINDOWS),
            (0, 1, 1, 0),
            {},
            {0: (2,), 3: (1,)},
            id="two windows of one run",
        ),
        pytest.param((GENERATE, FOOTAGE), (1, 1, 1), {}, {}, id="footage has no windows"),
    ],
)
def test_a_scene_is_outdated_when_what_it_saw_changed_without_seeing_it(
    runs: tuple[RunPasses, ...],
    made_by: tuple[int, ...],
    joins: dict[int, Join],
    outdated: dict[int, tuple[int, ...]],
) -> None:
    provenance, _ = grown(runs, made_by, joins=joins)
    found = {index: scene_origin(provenance, index).outdated for index in range(len(made_by))}
    assert {index: scenes for index, scenes in found.items() if scenes} == outdated
    assert len(hints(provenance)) == len(outdated)


def test_a_hint_names_the_scene_and_its_reason() -> None:
    provenance, _ = grown()
    (hint,) = hints(provenance)
    assert hint.scene == 3
    assert hint.text.startswith("scene 4 was made with an older version of scene 2;")


@pytest.mark.parametrize(
    ("scenes", "name"),
    [
        ((), "no scene"),
        ((3,), "scene 4"),
        ((2, 0, 1), "scenes 1-3"),
        ((0, 1, 4), "scenes 1-2 and 5"),
        ((0, 2, 4), "scenes 1, 3 and 5"),
    ],
)
def test_scenes_are_named_as_people_count_them(scenes: tuple[int, ...], name: str) -> None:
    assert name_scenes(grown()[0], scenes) == name


def test_scenes_that_are_not_in_a_film_of_new_scenes_alone_are_counted_only() -> None:
    provenance, _ = grown((GENERATE, EXTEND), (1, 1), first_scene=3)
    assert [describe_run(provenance, run) for run in lineage(provenance)] == [
        "3 scenes before this film's first together",
        "scene 1 from 2 scenes before this film's first; "
        "scene 2 from scene 1 and 1 scene before this film's first",
    ]
    assert hints(provenance) == ()


def test_footage_that_is_not_in_a_film_of_new_scenes_alone_is_what_it_went_on_from() -> None:
    provenance, _ = grown((("footage", ()), EXTEND), (1, 1), first_scene=3)
    told = describe_run(provenance, lineage(provenance)[0])
    assert told.startswith("continued ")
    assert told.endswith(", which is not part of this film")


def changed_runs(provenance: Provenance, *changes: dict[str, object]) -> Provenance:
    """The same film with values of its runs replaced."""
    runs = [run.model_copy(update=change) for run, change in zip(provenance.runs, changes, strict=True)]
    return provenance.model_copy(update={"runs": tuple(runs)})


def test_the_means_name_speed_mode_threads_and_processor() -> None:
    provenance, _ = grown((GENERATE,), (0, 0, 0))
    machine = MachineRecord(num_threads=2, processor="Some CPU, AVX2", gpu="Some GPU, CUDA 13")
    skipped = {"speed": "fast", "num_steps_foretold": 10, "foretold_error_mean": 0.031}
    (run,) = lineage(changed_runs(provenance, {"machine": machine, "parameters": skipped}))
    assert dict(describe_means(run)) == {
        "model": "builtin:puppet, sha256 cccccccccccccccc",
        "sampling": "speed fast, 10 steps skipped, estimated error 3.1%",
        "machine": "2 CPU threads, Some CPU, AVX2, Some GPU, CUDA 13",
        "versions": dict(describe_means(run))["versions"],
    }


def test_a_scene_is_stale_when_its_context_or_the_description_of_its_actors_changed() -> None:
    prompts = {0: "Actor1 (round red body) waves.", 1: "Actor1 (tall blue body) waves."}
    provenance, _ = grown(prompts=prompts)
    old, new = ({"cast": {"Actor1": text}} for text in ("round red body", "tall blue body"))
    film = changed_runs(provenance, {"recipe": old}, {"recipe": old}, {"recipe": new})
    assert [stale(film, index) for index in range(5)] == [
        ("made with an older description of Actor1",),
        (),
        (),
        ("made with an older version of scene 2",),
        (),
    ]
    for cast in (None, 7, {"Actor1": 3}):
        odd = changed_runs(provenance, {"recipe": old}, {"recipe": old}, {"recipe": {"cast": cast}})
        assert stale(odd, 0) == ()


def test_a_record_of_very_many_scenes_windows_and_runs_is_described_at_once() -> None:
    """Whoever writes a record decides how long it is: work must not grow with a product of its parts."""
    provenance, _ = grown()
    scene, run = provenance.scenes[0], provenance.runs[0]
    window = run.windows[0].model_copy(update={"scenes": tuple(range(400)), "targets": (0,)})
    scenes = [scene.model_copy(update={"first_frame": 5 * number}) for number in range(2000)]
    windows = tuple(window.model_copy(update={"targets": (number,)}) for number in range(400))
    runs = (run.model_copy(update={"windows": windows}), *[run.model_copy(update={"windows": ()})] * 5000)
    long = provenance.model_copy(update={"scenes": tuple(scenes), "runs": runs})
    started_s = time.process_time()
    assert len(lineage(long)) == 5001
    assert not hints(long)
    assert not any(stale(long, number) for number in range(len(scenes)))
    # It takes a tenth of a second; the product of scenes and runs took fifty times as long.
    assert time.process_time() - started_s < 5
