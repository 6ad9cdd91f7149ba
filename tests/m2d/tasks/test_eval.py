from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m2d.errors import BackendUnavailable, InputError, OutputError
from m2d.evaluation import cache, natural_embedder
from m2d.evaluation.evaluate import EvalPlan, measure
from m2d.evaluation.puppet_embedder import load_puppet_embedder
from m2d.progress import SilentReporter
from m2d.tasks.eval import PAGE, RESULTS, TABLE, evaluate_videos
from m2d.video.film_frames import film_frames
from m2d.video.write import write_film
from tests.m2d.evaluation.hub_folders import hub_folder, write_words
from tests.m2d.evaluation.puppet_films import empty_film, write_films
from tests.m2d.video.board.chromium import Chromium, find_chromium
from tests.m2d.video.grown_films import GENERATE, grown, write_grown

PROGRAM = find_chromium()


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four stories of three scenes, with the recipes of their prompts."""
    folder = tmp_path_factory.mktemp("films")
    write_films(folder, seed=3, count=4)
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M2D_CACHE", str(tmp_path / "cache"))


def evaluated(films: Path, out: Path, **changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "paths": (films / "films",),
        "prompts": films / "stories",
        "embedder": "puppet",
        "out": out,
    }
    evaluate_videos(EvalPlan(**fields | changes), SilentReporter())
    document: dict[str, Any] = json.loads((out / RESULTS).read_text())
    return document


def test_drawn_films_follow_their_prompts_and_have_no_distance_from_themselves(
    films: Path, tmp_path: Path
) -> None:
    found = evaluated(films, tmp_path / "report", reference=films / "films")
    assert (found["num_stories"], found["num_scenes"]) == (4, 12)
    assert found["figures"]["semantic"]["value"] > 90
    assert found["figures"]["shown.setting"]["value"] > 0.9
    ranked = {name: found["figures"][name] for name in ("prompt_recall_1", "prompt_auc", "scene_auc")}
    assert min(figure["value"] for figure in ranked.values()) > 0.9
    assert ranked["prompt_recall_1"]["chance"] == pytest.approx(1 / 12, abs=1e-4)
    assert found["set_distance"]["frechet"] <= 1e-5 < found["set_distance"]["frechet_of_halves"]["value"]
    (warning,) = found["warnings"]
    assert warning.startswith("reference: 4 of 4 files are also in the set")
    for name in (PAGE, TABLE):
        assert warning in (tmp_path / "report" / name).read_text("utf-8")
    row = found["scenes"][1]
    assert (row["story"], row["scene"], row["contrast_change"] is None) == ("story-0", 2, False)
    page, table = ((tmp_path / "report" / name).read_text("utf-8") for name in (PAGE, TABLE))
    assert page.count("data:image/webp") == 12
    assert "ranks first in the set (R@1), share; chance 0.08333" in page
    assert "of another (AUC), share; chance 0.5 |" in table
    assert re.search(r"Places as prompted, share \|.*\| larger \| 12 prompted properties in 4 stories", table)
    assert "6 clips each, 64 splits" in table
    assert not re.search(r'src="(?!data:)', page)
    assert "| story-3 | 3 |" in table


def test_networks_of_a_folder_score_scenes_and_prompts(films: Path, tmp_path: Path) -> None:
    clip = hub_folder("clip", tmp_path / "clip")
    write_words(clip)
    found = evaluated(films, tmp_path / "report", embedder="clip", embedder_model=str(clip))
    assert found["embedder"] == "clip"
    assert {"visual", "semantic", "cross_talk"} <= found["figures"].keys()
    assert "clip-8/1" in found["networks"]
    dino = hub_folder("dino", tmp_path / "dino")
    found = evaluated(films, tmp_path / "dino-report", embedder="dino", embedder_model=str(dino))
    assert found["figures"]["visual"]["value"] > 0
    assert "semantic" not in found["figures"]
    assert "semantic consistency and cross-talk: dino has no text encoder" in found["notes"]
    with pytest.raises(InputError, match=r"--embedder-model: clip needs a folder"):
        evaluated(films, tmp_path / "none", embedder="clip")


def test_a_reference_that_cannot_serve_is_refused_before_anything_is_measured(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "measure_story", None)
    out, four = tmp_path / "report", films / "films"
    with pytest.raises(InputError, match=r"reference: .*nosuch: does not exist; give a folder of videos"):
        evaluated(films, out, reference=tmp_path / "nosuch")
    with pytest.raises(InputError, match=r"reference: .*holds no video"):
        evaluated(films, out, reference=films / "stories")
    with pytest.raises(InputError, match=r"reference: .* needs an embedder"):
        evaluated(films, out, reference=four, embedder="none")
    few = (four / "story-0.mp4", four / "story-1.mp4")
    with pytest.raises(InputError, match=r"reference: the set has 6 clips, its reference 12; .* at least 10"):
        evaluated(films, out, paths=few, reference=four)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "text.mp4").write_bytes(b"hello")
    with pytest.raises(InputError, match=r"reference: none of its videos can be read:\ntext\.mp4: is not a"):
        evaluated(films, out, reference=tmp_path / "bad")
    empty_film(tmp_path / "bad" / "a-scene-7.mp4")
    unequal = r"12 clips, its reference 1; .*\nleft out of the reference:\ntext\.mp4: is not a film"
    with pytest.raises(InputError, match=unequal):
        evaluated(films, out, reference=tmp_path / "bad")
    for number in range(12):
        empty_film(tmp_path / "wide" / f"a-{number}.mp4", width=80)
    shape = "reference: a-0: frames of 80x64; the attribute classifier of these films reads 64x64 pixels"
    with pytest.raises(InputError, match=shape):
        evaluated(films, out, reference=tmp_path / "wide")


def test_figures_of_fewer_stories_say_how_many(films: Path, tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        empty_film(tmp_path / "single" / name, num_frames=9)
    paths = (films / "films" / "story-0.mp4", tmp_path / "single")
    found = evaluated(films, tmp_path / "report", paths=paths, prompts=None)
    measured = {name: figure["num_stories"] for name, figure in found["figures"].items()}
    assert (measured["visual"], measured["smoothness"]) == (1, 3)
    page, table = ((tmp_path / "report" / name).read_text("utf-8") for name in (PAGE, TABLE))
    for text in (page, table):
        assert re.search(r"Visual Consistency, %\W[^V]*larger\W[^V]*1 of 3 stories", text)
        assert re.search(r"Motion smoothness, %\W[^M]*larger\W[^M]*all stories", text)
    assert "<h2>Worst scenes, by visual consistency (without 2 scenes that have none)</h2>" in page
    assert "story-0, scene 2:</b> visual consistency" in page
    assert found["notes"] == [note for note in found["notes"] if "one scene" not in note]
    alone = evaluated(films, tmp_path / "alone", paths=(tmp_path / "single",), prompts=None)
    assert "visual" not in alone["figures"]
    assert any(note.startswith("visual and sequence consistency") for note in alone["notes"])


def test_networks_that_read_prompts_are_listed(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Network:
        protocol, digest = "words/1", "abc"

        def __init__(self, *, device: str) -> None: ...

        def encode(self, texts: Sequence[str]) -> np.ndarray:
            return np.ones((len(texts), 2))

    for name in ("EfficientNet", "I3D", "Sentences"):
        monkeypatch.setattr(natural_embedder, name, Network)
    with_prompts, without = (
        natural_embedder.NaturalEmbedder(device="cpu", has_prompts=has_prompts, has_reference=True)
        for has_prompts in (True, False)
    )
    assert (with_prompts.text_networks, without.text_networks) == ({"words/1": "abc"}, {})
    embedder = load_puppet_embedder(height=64, width=64)
    embedder.text_networks = with_prompts.text_networks
    monkeypatch.setattr("m2d.evaluation.evaluate._embedder", lambda *_: embedder)
    found = evaluated(films, tmp_path / "report", paths=(films / "films" / "story-0.mp4",))
    assert found["networks"].keys() >= {"words/1", embedder.extractors["attributes"].protocol}


@pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed")
def test_the_page_shows_the_scenes_in_a_browser_without_a_network(films: Path, tmp_path: Path) -> None:
    assert PROGRAM is not None
    evaluated(films, tmp_path / "report")
    page = tmp_path / "report" / PAGE
    with Chromium(PROGRAM, tmp_path / "profile") as browser:
        browser.open(page)
        assert browser.requests() == [page.as_uri()]
        assert browser.problems() == []
        drawn = "[...document.images].filter(image => image.complete && image.naturalWidth > 100).length"
        assert browser.evaluate(drawn) == 12
        for width in (320, 1200):
            browser.resize(width)
            assert browser.evaluate("document.documentElement.scrollWidth") <= width


def test_a_second_call_reads_the_cache(films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = evaluated(films, tmp_path / "report")
    (damaged, *_) = (tmp_path / "cache").rglob("*.safetensors")
    damaged.write_bytes(b"not tensors")
    decoded: list[str] = []
    measure = cache.measure_story
    monkeypatch.setattr(
        cache, "measure_story", lambda story, *rest: decoded.append(story.name) or measure(story, *rest)
    )
    assert evaluated(films, tmp_path / "again") == first
    assert len(decoded) == 1


def test_prompts_of_other_scenes_lower_the_scores(films: Path, tmp_path: Path) -> None:
    own = evaluated(films, tmp_path / "own")["figures"]
    (tmp_path / "permuted").mkdir()
    for path in (films / "stories").iterdir():
        head, *scenes = re.split(r"^  - ", path.read_text(), flags=re.MULTILINE)
        text = head + "".join(f"  - {each}" for each in (*scenes[1:], scenes[0]))
        (tmp_path / "permuted" / path.name).write_text(text)
    permuted = evaluated(films, tmp_path / "other", prompts=tmp_path / "permuted")["figures"]
    assert permuted["semantic"]["value"] < own["semantic"]["value"] - 10
    assert permuted["cross_talk"]["value"] < 0 < own["cross_talk"]["value"]


def test_a_repeated_scene_has_full_visual_consistency(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3)).astype(np.uint8)
    for number in (1, 2):
        write_film(
            tmp_path / f"a-scene-{number}.mp4",
            [frames],
            fps=8,
            upscale=1,
            title="a",
            scene_prompts=["a"],
            provenance=None,
            force=True,
        )
    found = evaluated(tmp_path, tmp_path / "report", paths=(tmp_path,), prompts=None)
    assert (found["num_stories"], found["num_scenes"]) == (1, 2)
    assert found["figures"]["visual"]["low"] is None
    assert found["figures"]["visual"]["value"] == pytest.approx(100, abs=1e-3)
    assert not [name for name in found["figures"] if name.startswith(("semantic", "prompt_", "scene_"))]
    assert any("no prompts" in note for note in found["notes"])


def test_unreadable_videos_are_listed_and_the_others_measured(films: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_bytes(b"hello")
    empty_film(tmp_path / "one.mp4", num_frames=1)
    paths = (films / "films", tmp_path)
    found = evaluated(films, tmp_path / "report", paths=paths, prompts=None, embedder="none")
    assert found["num_stories"] == 4
    reasons = {each["name"]: each["reason"] for each in found["left_out"]}
    assert "1 frame; at least 2" in reasons["one.mp4"]
    assert "is not a film" in reasons["text.mp4"]
    assert str(tmp_path) not in json.dumps(found)


def test_films_with_and_without_prompts_are_refused_only_where_prompts_are_compared(
    films: Path, tmp_path: Path
) -> None:
    write_grown(tmp_path / "walk.mp4", *grown((GENERATE,), (0, 0, 0)))
    paths = (films / "films" / "story-0.mp4", tmp_path / "walk.mp4")
    found = evaluated(films, tmp_path / "report", paths=paths, prompts=None, embedder="none")
    assert (found["num_stories"], found["left_out"]) == (2, [])
    with pytest.raises(InputError, match=r"^story-0: without prompts; with prompts: walk; give a recipe"):
        evaluated(films, tmp_path / "other", paths=paths, prompts=None, embedder="natural")


def test_bad_requests_name_what_is_wrong(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "report"
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "story-0.yaml").write_text("title: Story 0\nscenes: [Snow., Rain.]\n")
    (tmp_path / "text.mp4").write_bytes(b"hello")
    unknown = r"prompts: no recipe named story-1, story-2, story-3; the prompts have story-0\n"
    with pytest.raises(InputError, match=f"{unknown}story-0: 3 scenes, 2 prompts$"):
        evaluated(films, out, prompts=tmp_path / "some", embedder="none")
    with pytest.raises(InputError, match="embedder_model: puppet reads no weights; choose viclip, clip"):
        evaluated(films, out, embedder_model="some")
    with pytest.raises(InputError, match="none of the videos can be evaluated"):
        evaluated(films, out, paths=(tmp_path / "text.mp4",), prompts=None)
    with pytest.raises(InputError, match="device: 'tpu' is no device; use cpu, cuda or cuda:N"):
        evaluated(films, out, device="tpu")
    with pytest.raises(BackendUnavailable, match="cuda:98: torch finds"):
        evaluated(films, out, device="cuda:98")
    with pytest.raises(InputError, match="holds no video"):
        evaluated(films, out, paths=(tmp_path / "some",))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(InputError, match="device: cuda: no network runs, so nothing would use it"):
        evaluated(films, out, device="cuda", embedder="none")
    assert not out.exists()


def test_a_film_of_a_shape_that_no_classifier_reads_is_named(films: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat.mp4"
    frames = np.zeros((4, 64, 80, 3), np.uint8)
    write_film(flat, [frames], fps=8, upscale=1, title="a", scene_prompts=["a"], provenance=None, force=True)
    with pytest.raises(InputError, match=r"^flat: frames of 80x64: no attribute classifier reads"):
        evaluated(films, tmp_path / "report", paths=(flat,), prompts=None)


def test_copies_of_a_film_are_told(films: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    first, second, *_ = sorted((films / "films").glob("*.mp4"))
    for film, name in ((first, "a"), (second, "b"), (first, "c")):
        shutil.copy(film, tmp_path / "set" / f"{name}.mp4")
    asked = {"paths": (tmp_path / "set",), "prompts": None, "embedder": "none"}
    found = evaluated(films, tmp_path / "report", **asked)
    assert found["warnings"] == ["1 of 3 files are copies of others, so the intervals are too narrow: c.mp4"]


def test_a_report_is_replaced_only_when_asked_for(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated(films, tmp_path / "report", embedder="none")
    with pytest.raises(OutputError, match="holds a report"):
        evaluated(films, tmp_path / "report", embedder="none")
    evaluated(films, tmp_path / "report", embedder="none", force=True)
    # That of somebody else has the same name.
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / PAGE).write_text("theirs")
    with pytest.raises(OutputError, match=f"site: holds a report or another {PAGE}"):
        evaluated(films, tmp_path / "site", embedder="none")

    def measured(*given: Any) -> Any:
        # Another process finishes meanwhile.
        shutil.copytree(tmp_path / "report", tmp_path / "late")
        (tmp_path / "late" / PAGE).write_text("theirs")
        return measure(*given)

    monkeypatch.setattr("m2d.tasks.eval.measure", measured)
    with pytest.raises(OutputError, match="exists already"):
        evaluated(films, tmp_path / "late", embedder="none")
    assert (tmp_path / "late" / PAGE).read_text() == "theirs"


def test_scenes_are_written_as_other_benchmarks_read_them(films: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    evaluated(films, out, embedder="none", exports=("vbench", "entitybench", "msvbench"))

    prompts = json.loads((out / "vbench/prompts.json").read_text())
    videos = sorted(path.name for path in (out / "vbench/videos").iterdir())
    assert videos == sorted(prompts)
    assert len(videos) == 12
    source, clip = (
        [frame.rgb(upscale=1) for frame in film_frames(path)]
        for path in (films / "films/story-0.mp4", out / "vbench/videos/story-0-scene-2.mp4")
    )
    errors = [np.abs(a.astype(int) - b).mean() for a, b in zip(source[9:18], clip, strict=True)]
    others = [np.abs(a.astype(int) - b).mean() for a, b in zip(source[:9], clip, strict=True)]
    assert max(errors) < 2
    assert min(others) > 4

    bench = out / "entitybench"
    script = json.loads((bench / "scripts/story-0.json").read_text())
    (scene,) = script["scenes"]
    assert scene["video_prompts"] == [prompts[f"story-0-scene-{number}.mp4"] for number in (1, 2, 3)]
    assert scene["cut"] == [True, True, True]
    scheduled = [script["entity_schedule"][f"1:{shot}"]["characters"] for shot in (1, 2, 3)]
    described = {each["name"]: each["description"] for each in script["entity_descriptions"].values()}
    for shot, names in enumerate(scheduled, start=1):
        assert names
        for name in names:
            assert f"{name} ({described[name]})" in scene["video_prompts"][shot - 1]
        assert (bench / f"videos/story-0/001_{shot:03d}.mp4").is_file()
    assert json.loads((bench / "split.json").read_text())["easy"] == [f"story-{n}" for n in range(4)]

    data = out / "msvbench/Dataset"
    assert (data / "prompt/story-0.txt").read_text().splitlines() == scene["video_prompts"]
    script = json.loads((data / "script/story-0.json").read_text())
    names = {each["id"]: each["name"] for each in script["characters"]}
    shown = [[names[number] for number in each["clips"][0]["characters"]] for each in script["script"]]
    assert shown == [
        schedule["characters"]
        for _, schedule in sorted(
            json.loads((bench / "scripts/story-0.json").read_text())["entity_schedule"].items()
        )
    ]
    found = sorted((out / "msvbench/Evaluation/data/videos/story-0").iterdir())
    assert [path.name for path in found] == ["01.mp4", "02.mp4", "03.mp4"]


def test_a_layout_of_another_benchmark_needs_prompts(films: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="prompts"):
        evaluated(films, tmp_path / "report", prompts=None, embedder="none", exports=("vbench",))
    with pytest.raises(InputError, match="'vbnch' is no layout"):
        evaluated(films, tmp_path / "report", embedder="none", exports=("vbnch",))
    assert not (tmp_path / "report").exists()
