"""Provenance tells the whole truth about a film, and nothing about who made it where."""

from __future__ import annotations

import hashlib
import json
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from m2d.enlarging import Enlarging
from m2d.video.digests import canonical_json
from m2d.video.privacy import PrivacyError, local_names, refuse_private
from m2d.video.provenance import (
    ModelRecord,
    Provenance,
    ProvenanceError,
    WindowRecord,
    parse_provenance,
    seal_provenance,
)
from m2d.video.provenance_builder import MadeScene, build_provenance, build_run_record

NOBODY = "f" * 64


def make(prompts: list[str] | None = None, *, recipe: dict[str, Any] | None = None) -> Provenance:
    rng = np.random.default_rng(0)
    scenes = [
        MadeScene(
            prompt=prompt,
            seed=index,
            frames_PHWC=rng.integers(0, 256, (5, 8, 16, 3), dtype=np.uint8),
            latents_FCHW=rng.standard_normal((2, 4, 1, 2), dtype=np.float32),
        )
        for index, prompt in enumerate(prompts or ["Actor1 walks right.", "Actor1 jumps."])
    ]
    run = build_run_record(
        kind="generate",
        recipe=recipe
        or {"title": "First snow", "scenes": prompts or ["Actor1 walks right.", "Actor1 jumps."]},
        parameters={"num_inference_steps": 25, "guidance_scale": 3.0, "device": "cpu"},
        model=ModelRecord(name="builtin:puppet", digest=NOBODY),
        windows=[WindowRecord(scenes=(0,), targets=(0,), layout_digest=NOBODY)],
    )
    return build_provenance(
        title="First snow",
        runs=[run],
        scenes=scenes,
        fps=8,
        upscale=Enlarging(4),
    )


def resealed(change: dict[str, Any]) -> str:
    """The provenance with `change` applied and a sha256 that fits: a lie told well."""
    document = make().model_dump(mode="json") | change
    return json.dumps(document | {"sha256": digest_of(document)})


def digest_of(document: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(document).encode()).hexdigest()


def test_sealed_provenance_is_read_back_equal() -> None:
    provenance = make()
    text = seal_provenance(provenance)
    assert text.isascii()
    assert parse_provenance(text) == provenance
    assert provenance.num_frames == 10
    assert [scene.first_frame for scene in provenance.scenes] == [0, 5]
    assert provenance.last_run.versions["m2d"]


def test_equal_runs_have_equal_text() -> None:
    assert seal_provenance(make()) == seal_provenance(make())
    assert make().digest() != make(["Actor1 waves."]).digest()


def test_lone_surrogates_become_replacement_characters() -> None:
    provenance = make(["half \ud83d a pair"])
    assert provenance.scenes[0].prompt == "half \ufffd a pair"
    assert parse_provenance(seal_provenance(provenance)) == provenance


def test_every_changed_character_is_noticed() -> None:
    text = seal_provenance(make())
    with pytest.raises(ProvenanceError, match="sha256 does not match"):
        parse_provenance(text.replace('"upscale":4', '"upscale":5'))
    with pytest.raises(ProvenanceError, match="sha256 does not match"):
        parse_provenance(text.replace("walks right", "walks left"))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "is a list, not a JSON object"),
        ('{"m2d_provenance": 2}', "of version 2; this m2d reads version 3"),
        ('{"m2d_provenance": "\\u001b[31m"}', r"of version \[31m;"),
        ('{"m2d_provenance": 3, "fps": NaN}', "not JSON"),
        ('{"m2d_provenance": 3, "fps": 1e999}', "not plain JSON"),
        ('{"m2d_provenance": 3}', "corrupt"),
    ],
)
def test_text_that_is_no_provenance_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ProvenanceError, match=complaint):
        parse_provenance(text)


WINDOW: dict[str, Any] = {"scenes": [0], "targets": [0], "layout_digest": "0"}
VIDEO = {"width": 16, "height": 8, "upscale": 4, "fps": 8}
FILM = {"width": 64, "height": 32, "fps": [8, 1]}
RUN: dict[str, Any] = {
    "kind": "generate",
    "recipe": {},
    "parameters": {},
    "model": None,
    "versions": {},
    "windows": [WINDOW],
}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"extra": 1}, "extra: Extra inputs are not permitted"),
        ({"scenes": []}, "scenes: Tuple should have at least 1 item"),
        ({"video": {"width": 0, "height": 8, "upscale": 1, "fps": 8}}, r"video\.width"),
        ({"frames_sha256": "short"}, "frames_sha256"),
        ({"runs": [RUN | {"windows": [WINDOW | {"targets": [1]}]}]}, "made scenes that it did not see"),
        ({"runs": [RUN | {"windows": [WINDOW | {"scenes": [0, 7]}]}]}, "made scene 7, which is not in"),
        ({"video": VIDEO | {"upscale": 10**400}}, r"video\.upscale"),
        ({"video": VIDEO | {"fps": 1e-5}}, r"video\.fps"),
        ({"video": VIDEO | {"film": FILM | {"fps": [1, 10**400]}}}, r"video\.film\.fps"),
        ({"video": VIDEO | {"film": FILM | {"pixel_aspect": [10**400, 1]}}}, r"video\.film\.pixel_aspect"),
        ({"first_scene": 10**400}, "first_scene"),
        ({"runs": [RUN | {"windows": [WINDOW] * 1001}]}, r"windows: Tuple should have at most 1000"),
        ({"runs": [RUN | {"windows": [WINDOW | {"scenes": [0] * 1001}]}]}, r"scenes: Tuple .* at most 1000"),
    ],
)
def test_well_sealed_nonsense_is_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ProvenanceError, match=complaint):
        parse_provenance(resealed(change))


def test_scenes_must_join() -> None:
    scenes = make().model_dump(mode="json")["scenes"]
    scenes[1]["first_frame"] = 4
    with pytest.raises(ProvenanceError, match=r"scenes\[1\] .* begins at frame 4, not at 5"):
        parse_provenance(resealed({"scenes": scenes}))


def test_film_of_another_length_or_size_is_told() -> None:
    provenance = make()
    provenance.check_film(num_frames=10, width=64, height=32)
    with pytest.raises(ProvenanceError, match="describes 10 frames of 64x32, the film has 9 frames of 64x32"):
        provenance.check_film(num_frames=9, width=64, height=32)
    with pytest.raises(ProvenanceError, match="of 64x32, the film has 10 frames of 32x32"):
        provenance.check_film(num_frames=10, width=32, height=32)


def test_of_absolute_paths_only_the_name_is_kept() -> None:
    provenance = make(
        recipe={
            "model": "/data/models/tiny",
            "output": "C:\\films\\snow.mp4",
            "scenes": ["/a", {"prompt": "/b"}],
        }
    )
    assert provenance.last_run.recipe == {
        "model": "tiny",
        "output": "snow.mp4",
        "scenes": ["/a", {"prompt": "/b"}],
    }
    assert "/data" not in seal_provenance(provenance)


@pytest.mark.parametrize(
    "value",
    ["loaded from /srv/models", "~/films", "path=C:\\x", "\\\\server\\share", "file:///x", "(/x)"],
)
def test_absolute_paths_are_refused_wherever_they_hide(value: str) -> None:
    with pytest.raises(PrivacyError, match=r"provenance\.notes\[0\]: .* holds an absolute path"):
        refuse_private({"notes": [value]}, names=frozenset())
    with pytest.raises(PrivacyError, match="absolute path"):
        refuse_private({value: 1}, names=frozenset())


@pytest.mark.parametrize("value", ["stage7", "ada", "ada@stage7", "ssh ada@elsewhere"])
def test_host_and_user_names_are_refused(value: str) -> None:
    with pytest.raises(PrivacyError, match=r"provenance\.where: .* is a host or user name; leave it out"):
        refuse_private({"where": value}, names=frozenset({"stage7", "ada"}))


@pytest.mark.parametrize(
    "value", ["builtin:puppet", "cuda:0", "THUDM/CogVideoX-2b", "2.13.0+cpu", "models/tiny"]
)
def test_names_and_relative_paths_are_allowed(value: str) -> None:
    refuse_private({"model": value}, names=local_names() - {value})


def test_the_words_of_the_story_may_say_anything() -> None:
    story = {
        "title": "ada",
        "cast": {"Actor1": "/ada"},
        "scenes": ["/ada walks", {"prompt": "~/ada", "negative_prompt": "ada@stage7"}],
    }
    refuse_private({"recipe": story}, names=frozenset({"ada"}))


@pytest.mark.parametrize(
    ("part", "lie", "complaint"),
    [
        ("recipe", {"video": {"width": 8192}}, "has width 8192, the film 16"),
        ("recipe", {"video": {"upscale": 64}}, "has upscale 64, the film 4"),
        ("recipe", {"video": {"fps": 240}}, "has fps 240, the film 8"),
        ("parameters", {"height": 4096}, "has height 4096, the film 8"),
        ("parameters", {"height": 10**400}, "has height 1000"),
        ("recipe", {"scenes": ["a"], "video": {"num_frames": 9997}}, "has .* of frames: 9997, the film 5"),
        ("recipe", {"scenes": [{"prompt": "a", "frames": 97}]}, "has .* of frames: 97, the film 5"),
    ],
)
def test_a_run_that_lies_about_the_film_is_refused(part: str, lie: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ProvenanceError, match=rf"runs\[0\] of the provenance {complaint}"):
        parse_provenance(resealed({"runs": [RUN | {part: lie}]})).check_runs()


def test_a_run_may_ask_for_what_the_film_has() -> None:
    video = {"width": 16, "height": 8, "upscale": 4, "fps": 8, "num_frames": 97}
    recipe = {"scenes": [{"prompt": "a", "frames": 5}], "video": video}
    run = RUN | {"recipe": recipe, "parameters": {"fps": 8}}
    parse_provenance(resealed({"runs": [run]})).check_runs()


def test_a_film_of_another_rate_is_another_film() -> None:
    make().check_film(num_frames=10, width=64, height=32, fps=Fraction(8008, 1001))
    with pytest.raises(ProvenanceError, match=r"describes .* at 8 per second, the film has .* at 16: it was"):
        make().check_film(num_frames=10, width=64, height=32, fps=Fraction(16))
