"""Films that m2d did not make go on, too; what is no film is refused and left alone."""

from __future__ import annotations

import importlib.util
import random
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from benchmarks.decoded_film import read_film
from m2d.errors import InputError
from m2d.families.cogvideox.vae import CogVideoXVae
from m2d.families.loading import load_vae
from m2d.film.external import load_external_video
from m2d.film.load import load_film
from m2d.film.make import FilmResult
from m2d.video.digests import array_digest
from m2d.video.run_folder import read_run
from tests.m2d.tasks.journals import RecordingReporter
from tests.m2d.tasks.studio import Stopping, Studio, contents, frames_of, latents_of, open_studio

NUM_FRAMES, CUT, FPS = 48, 24, 24


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return open_studio(tmp_path_factory.mktemp("studio"))


def film_holiday(path: Path, *, num_frames: int = NUM_FRAMES) -> Path:
    """A wide film at 24 frames per second that cuts from red to blue after one second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for index in range(num_frames):
            frame_HWC = np.full((48, 64, 3), (200, 60, 40) if index < CUT else (30, 90, 220), np.uint8)
            frame_HWC[10:20, index : index + 8] = 240
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def holiday(studio: Studio) -> Path:
    """A film that m2d did not make, which no test changes."""
    return film_holiday(studio.path("holiday"))


@pytest.fixture(scope="module")
def longer(studio: Studio, holiday: Path) -> FilmResult:
    """The film, and a scene more."""
    told = RecordingReporter()
    result = studio.extend(
        holiday,
        "a dog",
        fit="model",
        cuts_s=(1.0,),
        context_prompts=("a red day", "a blue day"),
        reporter=told,
    )
    assert result.notes == tuple(told.notes)
    return result


def test_its_last_scenes_are_context_at_the_models_rate_and_size_and_this_is_said(
    longer: FilmResult,
) -> None:
    film = read_film(longer.film)
    assert longer.film.name == "holiday-extended.mp4"
    assert film.frames_PHWC.shape == (25, 32, 32, 3)
    assert longer.notes == (
        "2 scenes given: 0.0-1.0 s, 1.0-2.0 s",
        "resampled from 24 to 8 frames per second",
        "cropped 8 pixels left and right",
        "scaled from 48x48 to 32x32 pixels",
        "the whole video is copied: 2 scenes, 16 frames, 2.0 s, less than 0.1 MB; --only-new leaves it out",
    )
    red, blue, new = longer.provenance.scenes
    assert [scene.prompt for scene in (red, blue, new)] == ["a red day", "a blue day", "a dog"]
    assert (red.seed, red.guidance_scale, red.run) == (None, None, 0)
    assert [run.kind for run in longer.provenance.runs] == ["footage", "extend"]
    footage = longer.provenance.runs[0]
    assert footage.parameters == {"film": "holiday.mp4", "spans": [[0.0, 1.0], [1.0, 2.0]]}
    assert footage.model is None
    assert longer.provenance.title == "holiday"
    assert [tuple(frame[0, 0].round(-1)) for frame in film.frames_PHWC[[0, 8]]] == [
        (200, 60, 40),
        (30, 90, 220),
    ]


@pytest.mark.skipif(importlib.util.find_spec("cv2") is None, reason="needs OpenCV")
def test_scenes_are_found_when_nobody_says_where_they_begin(studio: Studio, holiday: Path) -> None:
    film = load_external_video(holiday, studio.source, cuts_s=None, prompts=())
    assert film.notes[0] == "2 scenes found: 0.0-1.0 s, 1.0-2.0 s"
    assert [scene.plan.prompt for scene in film.scenes] == ["", ""]


def test_too_few_prompts_are_those_of_the_last_scenes(studio: Studio, holiday: Path) -> None:
    film = load_external_video(holiday, studio.source, cuts_s=(1.0,), prompts=("a blue day",))
    assert [scene.plan.prompt for scene in film.scenes] == ["", "a blue day"]


def test_frames_of_footage_are_the_same_however_often_the_film_goes_on(
    studio: Studio, longer: FilmResult
) -> None:
    again = studio.extend(longer.film, "a cat", join="continue")
    assert frames_of(again.provenance)[:3] == frames_of(longer.provenance)
    rerolled = studio.reroll(again.film, 1, prompts=("a green day",))
    kept = frames_of(rerolled.provenance)
    assert [index for index in range(4) if kept[index] == frames_of(again.provenance)[index]] == [0, 2, 3]
    # One scene of footage is left.
    assert "frames.safetensors" in contents(rerolled.run_folder)


def test_a_scene_that_continues_footage_begins_with_its_last_frame_as_it_was(
    studio: Studio,
) -> None:
    codec = load_vae(studio.source, device="cpu", dtype=torch.float32).module
    film = studio.generate(1, name="plain", video={"height": 32, "width": 32, "num_frames": 9}).film
    bare = Path(shutil.copy(film, studio.path("bare")))
    result = studio.extend(bare, "a cat", join="continue")
    frames_PHWC = load_film(result.film, studio.source).scenes[0].frames_PHWC
    assert frames_PHWC is not None
    last_FCHW = CogVideoXVae(codec).encode(frames_PHWC[-1:]).numpy()
    assert np.array_equal(latents_of(result.film)[1][:1], last_FCHW)
    # And with the new one's, once footage has been replaced.
    both = studio.reroll(result.film, 0, 1, prompts=("a sun", "a moon"), seed=3, out=studio.path("both"))
    end_PHWC = CogVideoXVae(codec).decode(torch.from_numpy(latents_of(both.film)[0]))[-1:]
    assert np.array_equal(latents_of(both.film)[1][:1], CogVideoXVae(codec).encode(end_PHWC).numpy())


@pytest.mark.parametrize("damage", ["removed", "changed", "another size", "no tensors"])
def test_frames_of_footage_that_are_gone_come_from_the_film_again(
    damage: str, studio: Studio, longer: FilmResult
) -> None:
    film = Path(shutil.copy(longer.film, studio.path(f"lost {damage}")))
    shutil.copytree(longer.run_folder, film.with_suffix(".m2d"))
    path = film.with_suffix(".m2d") / "frames.safetensors"
    data = path.read_bytes()
    spoilt = {
        "removed": None,
        "changed": data[:-1] + bytes([data[-1] ^ 1]),
        "another size": data.replace(b"[9,32,32,3]", b"[9,32,16,6]"),
        "no tensors": b"nothing",
    }[damage]
    path.unlink() if spoilt is None else path.write_bytes(spoilt)
    told = RecordingReporter()
    result = studio.extend(film, "a cat", reporter=told)
    assert len(told.notes) == 1
    assert told.notes[0].startswith("the frames of scene ")
    assert "taken from the film" in told.notes[0]
    shown_PHWC = read_film(longer.film).frames_PHWC[8:16]
    # The clip is a frame longer than the scene: its first frame is repeated.
    clip_PHWC = np.concatenate([shown_PHWC[:1], shown_PHWC])
    assert result.provenance.scenes[1].clip_sha256 == array_digest(clip_PHWC)
    assert frames_of(result.provenance)[:2] == frames_of(longer.provenance)[:2]


def test_footage_that_is_replaced_leaves_no_frames_behind(studio: Studio, longer: FilmResult) -> None:
    film = Path(shutil.copy(longer.film, studio.path("replaced")))
    shutil.copytree(longer.run_folder, film.with_suffix(".m2d"))
    studio.generate(1, name="replaced", options={"force": True})
    assert sorted(contents(film.with_suffix(".m2d"))) == ["latents.safetensors", "run.json", "sheet.png"]


def test_a_stop_is_resumed_without_repeating_what_was_asked(
    studio: Studio, holiday: Path, longer: FilmResult
) -> None:
    asked: dict[str, Any] = {"out": studio.path("resumed")}
    prompts = {"cuts_s": (1.0,), "context_prompts": ("a red day", "a blue day")}
    with pytest.raises(InterruptedError):
        studio.extend(
            holiday,
            "a dog",
            fit="model",
            reporter=Stopping(stage_to_stop="decode", raises=InterruptedError),
            **asked,
            **prompts,
        )
    for change, told in (
        ({"context_prompts": ("a day",)}, r'film\.scenes\[0\]\.prompt was "a red day" and is ""'),
        ({"cuts_s": (1.25,)}, r"film\.cuts_s\[0\] was 1\.0 and is 1\.25"),
        ({"only_new": True}, "only_new was false and is true"),
        ({"overrides": {"seed": 8}}, r"request: sampling\.seed was 0 and is 8"),
    ):
        with pytest.raises(InputError, match=told):
            studio.extend(holiday, resume=True, **asked, **change)
    result = studio.extend(holiday, resume=True, **asked)
    assert frames_of(result.provenance) == frames_of(longer.provenance)
    assert result.provenance.scenes == longer.provenance.scenes


REFUSED = {
    "a cut outside": ({"cuts_s": (100.0,)}, "^cuts: 100 is not in the film, which ends at 2.00 s"),
    "cuts out of order": ({"cuts_s": (1.0, 0.5)}, "^cuts: 0.5 is not after 1"),
    "no time": ({"cuts_s": (float("nan"),)}, "^cuts: nan is not a time"),
    "scenes too short": ({"cuts_s": (0.25, 1.9)}, "scene . of 3 .* has . frame.* at least are needed"),
    "too many prompts": ({"cuts_s": (), "context_prompts": ("a", "b")}, "2 prompts for 1 scene of"),
    "a prompt with controls": ({"cuts_s": (), "context_prompts": ("\x1b",)}, "^context_prompt 1: .* U.001B"),
    "a prompt too long": (
        {"cuts_s": (), "context_prompts": ("a " * 99,)},
        "^context_prompt 1: .* 100 tok",
    ),
    "somebody unknown": ({"cuts_s": (), "prompts": ("Actor1 sits",)}, "^prompt: Actor1 .* .empty"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_the_film_is_refused_and_nothing_is_touched(
    case: str, studio: Studio, holiday: Path
) -> None:
    asked, told = REFUSED[case]
    given = {"prompts": ("a dog",), **asked}
    before = contents(studio.folder)
    with pytest.raises(InputError, match=told) as raised:
        studio.extend(holiday, *given.pop("prompts"), out=studio.path("never"), **given)
    assert raised.value.exit_code == 2
    assert contents(studio.folder) == before


def write_sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44_100)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 44_100), np.float32), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = 44_100, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_bad(kind: str, path: Path, holiday: Path) -> None:
    if kind == "sound":
        write_sound(path)
    elif kind == "one frame":
        film_holiday(path, num_frames=1)
    elif kind == "playlist":
        path.write_text(f"ffconcat version 1.0\nfile {holiday.name}\n")
    elif kind == "HLS":
        path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{holiday.name}\n#EXT-X-ENDLIST\n")
    elif kind == "noise":
        path.write_bytes(random.Random(0).randbytes(5000))
    else:
        data = holiday.read_bytes()
        path.write_bytes({"nothing": b"", "cut off": data[: len(data) * 2 // 3], "text": b"hello"}[kind])


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("nothing", "has 0 bytes"),
        ("text", "is not a film that can be read"),
        ("noise", "is not a film that can be read"),
        ("sound", "holds no video, only audio"),
        ("one frame", "has 1 frame at 8 per second; 5 at least are needed; give a longer film"),
        ("playlist", "is not a film that can be read"),
        ("HLS", "is not a film that can be read"),
        ("cut off", "bad.mp4: "),
    ],
)
@pytest.mark.parametrize("in_place", [False, True])
def test_what_is_no_film_is_refused_and_left_as_it_is(
    kind: str, told: str, in_place: bool, studio: Studio, holiday: Path
) -> None:
    path = studio.path("bad")
    write_bad(kind, path, holiday)
    before = contents(studio.folder)
    given: dict[str, Any] = {"out": path, "force": True} if in_place else {}
    with pytest.raises(InputError, match=told) as raised:
        studio.extend(path, "a dog", cuts_s=(), **given)
    assert raised.value.exit_code == 2
    assert "\n" not in str(raised.value)
    assert contents(studio.folder) == before
    path.unlink()


NAMES = {
    "we ird [bold]x ; $(x) %s {a}": "we ird [bold]x ; $(x) %s {a}",
    "a\nb\t\x1b[31m": "a b [31m",
    "\u202eevil": "evil",
    "\u3000": "Film",
    "x" * 230: "x" * 197 + "...",
}


@pytest.mark.parametrize("name", NAMES)
def test_any_file_name_makes_a_title(name: str, studio: Studio, holiday: Path) -> None:
    path = Path(shutil.copy(holiday, studio.folder / f"{name}.mp4"))
    film = load_external_video(path, studio.source, cuts_s=(), prompts=())
    assert film.title == NAMES[name]
    result = studio.extend(path, "a dog", cuts_s=(), out=studio.path("named"), only_new=True, force=True)
    assert result.provenance.title == NAMES[name]
    assert read_run(result.film).provenance == result.provenance
    path.unlink()
