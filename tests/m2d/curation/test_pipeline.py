"""A data set is built stage by stage, accounts for every input, and resumes with the same bytes."""

from __future__ import annotations

import base64
import json
import re
import shutil
from pathlib import Path

import pytest

from m2d.curation.data_set import open_data_set
from m2d.curation.stage_file import StageFile, kind_of
from m2d.data.dataset_file import read_groups, shots_of
from m2d.errors import DatasetError, InputError, OutputBusy, RecipeError
from m2d.lock import hold
from m2d.tasks.data import show_group
from m2d.video.digests import canonical_json, text_digest
from tests.m2d.curation.conftest import build_set

STAGES = ("scan", "clips", "shots", "filter", "embed", "relate", "caption", "pack")


def bytes_of(data_set: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(data_set)): path.read_bytes() for path in data_set.rglob("*") if path.is_file()
    }


def lines_of(data_set: Path, stage: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in (data_set / "stages" / f"{stage}.jsonl").read_text().splitlines()]


def test_cuts_lie_where_the_truth_says(straight: Path, films: Path) -> None:
    truth = json.loads(next(films.glob("*.captions.json")).read_text())
    shots = [output for line in lines_of(straight, "shots") for output in line["outputs"]]
    spans = [(shot["start_s"], shot["end_s"]) for shot in shots]
    # A shorter shot between two dissolves may be taken for a part of them.
    for expected in (each for each in truth if each["end_s"] - each["start_s"] >= 2):
        span = (expected["start_s"], expected["end_s"])
        assert min(max(abs(one - two) for one, two in zip(span, each, strict=True)) for each in spans) < 0.4


def test_every_input_of_every_stage_is_kept_or_rejected_and_passed_on(straight: Path) -> None:
    outputs = None
    for stage in STAGES:
        lines = lines_of(straight, stage)
        assert all(bool(line["outputs"]) != bool(line["reason"]) for line in lines), stage
        if outputs is not None and stage in ("clips", "shots", "filter", "embed"):
            assert len(lines) == outputs, stage
        outputs = sum(len(line["outputs"]) for line in lines)


def test_the_description_is_read_as_training_data_with_the_captions_of_the_film(
    straight: Path, films: Path
) -> None:
    groups = read_groups(straight, file_format=None, root=None, caption_field="caption")
    truth = json.loads(next(films.glob("*.captions.json")).read_text())
    assert groups
    assert min(len(group.shots) for group in groups) >= 2
    for shot in shots_of(groups):
        assert shot.end_s is not None
        middle_s = (shot.start_s + shot.end_s) / 2
        (caption,) = [each["caption"] for each in truth if each["start_s"] <= middle_s < each["end_s"]]
        assert shot.caption == caption


@pytest.mark.parametrize("num_appended", [0, 2, 5])
def test_an_interrupted_build_ends_with_the_same_bytes_and_repeats_nothing(
    num_appended: int, straight: Path, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 0
    append = StageFile.append

    def interrupted(file: StageFile[object], outcome: object) -> None:
        nonlocal count
        if count == num_appended:
            raise KeyboardInterrupt
        count += 1
        append(file, outcome)  # type: ignore[arg-type]

    data_set = tmp_path / "set"
    with monkeypatch.context() as patch:
        patch.setattr(StageFile, "append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build_set(data_set, films)
    for journal in data_set.rglob("*.unfinished.jsonl"):
        journal.write_bytes(journal.read_bytes() + b'{"key": "torn')

    def counted(file: StageFile[object], outcome: object) -> None:
        nonlocal count
        count += 1
        append(file, outcome)  # type: ignore[arg-type]

    monkeypatch.setattr(StageFile, "append", counted)
    build_set(data_set, None)
    assert count == sum(len(lines_of(straight, stage)) for stage in ("scan", "shots", "embed"))
    found, expected = bytes_of(data_set), bytes_of(straight)
    # The way to the films is another one.
    assert {name: data for name, data in found.items() if name.startswith(("stages", "stills"))} == {
        name: data for name, data in expected.items() if name.startswith(("stages", "stills"))
    }


def test_a_changed_line_is_reported_with_its_place(straight: Path, films: Path, tmp_path: Path) -> None:
    data_set = tmp_path / "set"
    shutil.copytree(straight, data_set)
    path = data_set / "stages" / "filter.jsonl"
    path.write_text(path.read_text().replace('"motion":', '"motion":1'))
    with pytest.raises(DatasetError, match=r"filter\.jsonl:1: was changed .* its digest does not match"):
        build_set(data_set, films, stages=("filter",))
    # Python reads NaN as JSON.
    path.write_text(re.sub(r'"motion":[0-9.]+', '"motion":NaN', path.read_text()))
    with pytest.raises(DatasetError, match=r"filter\.jsonl:1: was changed"):
        build_set(data_set, films, stages=("filter",))


def test_lines_and_settings_of_other_forms_are_reported_with_their_place(tmp_path: Path) -> None:
    stages = tmp_path / "stages"
    stages.mkdir()
    (stages / "scan.jsonl").write_text("[" * 100_000 + "\n")
    with pytest.raises(DatasetError, match=r"scan.jsonl:1: was changed after it was written"):
        StageFile(tmp_path, "scan", dict).read()
    for settings in ("7", '{"filter": {"max_s": Infinity}}'):
        (tmp_path / "data.json").write_text(f'{{"m2d": 1, "films": ".", "settings": {settings}}}')
        with pytest.raises(DatasetError, match=r"data.json: settings\S*: Input should be a"):
            open_data_set(tmp_path)


def test_a_stage_needs_the_one_before_it(films: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"clips\.jsonl: stage clips is not finished"):
        build_set(tmp_path / "set", films, stages=("shots",))


def test_only_one_run_builds_a_data_set(films: Path, tmp_path: Path) -> None:
    with (
        hold(tmp_path / "set", what="building this data set"),
        pytest.raises(OutputBusy, match="is building this data set"),
    ):
        build_set(tmp_path / "set", films)


def test_files_that_are_no_films_and_copies_are_rejected_with_reasons(films: Path, tmp_path: Path) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    film = next(films.glob("*.mp4"))
    shutil.copy(film, folder / "a.mp4")
    shutil.copy(film, folder / "copy.mp4")
    (folder / "cut.mp4").write_bytes(film.read_bytes()[:9000])
    (folder / "empty.mkv").write_bytes(b"")
    (folder / "notes.txt").write_text("no film")
    build_set(tmp_path / "set", folder, stages=("scan", "clips"))
    scanned = {line["place"]: line["reason"] for line in lines_of(tmp_path / "set", "scan")}
    assert scanned.keys() == {"a.mp4", "copy.mp4", "cut.mp4", "empty.mkv"}
    assert "is cut off" in scanned["cut.mp4"]
    assert "has 0 bytes" in scanned["empty.mkv"]
    clips = {line["place"]: line["reason"] for line in lines_of(tmp_path / "set", "clips")}
    assert clips == {"a.mp4": "", "copy.mp4": "is a copy: of a.mp4"}


def test_reasons_of_one_kind_are_counted_together() -> None:
    assert kind_of("frame 0, at 0.0 s, is corrupt (Invalid data)") == "frame N, at N s, is corrupt"
    assert kind_of("is too short: 0.50 s of 2 s") == kind_of("is too short: 1.2 s of 2 s") == "is too short"
    assert kind_of("has 0 bytes; copy it again") == "has N bytes"


def test_bad_inputs_are_named(films: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(DatasetError, match="none: holds no video"):
        build_set(tmp_path / "set", tmp_path / "none")
    with pytest.raises(DatasetError, match="missing: no such folder"):
        build_set(tmp_path / "set", tmp_path / "missing")
    with pytest.raises(DatasetError, match="stage clips is not finished"):
        build_set(tmp_path / "set", films, "shots.dissolves=false", stages=["shots"])
    # Its settings would be those of the next run into that folder.
    assert not (tmp_path / "set").exists()
    with pytest.raises(DatasetError, match="empty: holds no data set"):
        build_set(tmp_path / "empty", None)
    with pytest.raises(InputError, match=r"out: .* lies in the folder of films"):
        build_set(films / "set", films)
    with pytest.raises(RecipeError, match=r"filter\.min_s"):
        build_set(tmp_path / "other", films, "filter.min_s=-1")
    with pytest.raises(RecipeError, match=r"relate\.embedder"):
        build_set(tmp_path / "other", films, "relate.embedder=foo")
    with pytest.raises(InputError, match=r"relate\.model: viclip needs a folder"):
        build_set(tmp_path / "other", films, "relate.embedder=viclip")
    assert not (tmp_path / "other").exists()


def test_official_files_hold_a_video_for_every_shot(straight: Path, films: Path, tmp_path: Path) -> None:
    data_set = tmp_path / "set"
    shutil.copytree(straight, data_set)
    build_set(data_set, films, "pack.videos=true", stages=("pack",))
    groups = read_groups(
        data_set / "official" / "sft.json", file_format=None, root=None, caption_field="caption"
    )
    stories = read_groups(data_set, file_format=None, root=None, caption_field="caption")
    assert [[shot.caption for shot in group.shots] for group in groups] == [
        [shot.caption for shot in group.shots] for group in stories
    ]
    table = (data_set / "official" / "pretrain.csv").read_text().splitlines()
    assert table[0] == "fps,width,height,caption,path,num_frame"
    assert len(table) == 1 + len(shots_of(stories))


@pytest.mark.parametrize("stage", ["embed", "filter"])
def test_stages_that_do_not_belong_together_are_refused(straight: Path, tmp_path: Path, stage: str) -> None:
    shutil.copytree(straight, tmp_path / "set")
    file = tmp_path / "set" / "stages" / f"{stage}.jsonl"
    kept = [line for line in file.read_text().splitlines() if '"reason":""' in line]
    others = [line for line in file.read_text().splitlines() if '"reason":""' not in line]
    file.write_text("\n".join([*others, *kept[1:]]) + "\n")
    with pytest.raises(DatasetError, match="filter, embed and relate do not belong together; build again"):
        show_group(tmp_path / "set", 0)


def rewrite(data_set: Path, stage: str, **changes: object) -> None:
    """Change fields of the first kept output of a stage, and give its line the right digest."""
    lines = lines_of(data_set, stage)
    line = next(line for line in lines if line["outputs"])
    line["outputs"][0] |= changes
    del line["digest"]
    line["digest"] = text_digest(canonical_json(line))[:16]
    text = "".join(f"{json.dumps(each)}\n" for each in lines)
    (data_set / "stages" / f"{stage}.jsonl").write_text(text)


NO_VECTOR = {"attributes": base64.b64encode(b"\xff" * 8).decode()}


@pytest.mark.parametrize(
    ("stage", "changes", "command", "why"),
    [
        ("caption", {"group": "0" * 12}, "pack", "relate and caption do not belong together"),
        ("caption", {"texts": ["x"]}, "pack", "relate and caption do not belong together"),
        ("pack", {"captions": ["x"]}, "report", "relate and pack do not belong together"),
        (
            "embed",
            {"values": {"x": "AAAAAA=="}},
            "report",
            "the vectors of stage embed are not those of puppet",
        ),
        ("embed", {"values": {"attributes": "AAAAAA=="}}, "report", "are not those of puppet; build again"),
        ("embed", {"values": NO_VECTOR}, "report", "embed.jsonl:1: .*it is not a line of this stage"),
        ("filter", {"stills": "../../x"}, "report", "filter.jsonl:.*it is not a line of this stage"),
        ("shots", {"hashes": ["", "x", "0"]}, "filter", "shots.jsonl:1: .*it is not a line of this stage"),
        ("shots", {"film": "../x.mp4"}, "filter", "shots.jsonl:1: .*it is not a line of this stage"),
        ("relate", {"places": []}, "report", "relate.jsonl:.*it is not a line of this stage"),
    ],
)
def test_values_that_no_stage_writes_are_refused_whatever_their_digest(
    stage: str, changes: dict[str, object], command: str, why: str, straight: Path, tmp_path: Path
) -> None:
    shutil.copytree(straight, tmp_path / "set")
    rewrite(tmp_path / "set", stage, **changes)
    with pytest.raises(DatasetError, match=why):
        build_set(tmp_path / "set", None, stages=(command,))
