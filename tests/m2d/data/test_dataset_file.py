from __future__ import annotations

import json
from pathlib import Path

import pytest

from m2d.data.captions import caption_warnings, check_captions
from m2d.data.csv_format import WrittenClip, write_csv
from m2d.data.dataset_file import read_groups, shots_of
from m2d.data.json_format import write_json_groups
from m2d.data.jsonl_format import write_jsonl
from m2d.errors import DatasetError


def _read(path: Path, caption_field: str = "caption") -> list[tuple[str, ...]]:
    groups = read_groups(path, file_format=None, root=None, caption_field=caption_field)
    return [tuple(shot.caption for shot in group.shots) for group in groups]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def _clip(path: str, caption: str) -> WrittenClip:
    return WrittenClip(video=path, caption=caption, width=64, height=64, fps=8, num_frames=9, sha256="0" * 64)


CLIPS = [_clip("a.mp4", 'A "red" body, waves.\nTwo lines.'), _clip("b.mp4", "Caf\u00e9 {at} dusk")]


@pytest.mark.parametrize("ending", ["csv", "json", "jsonl"])
def test_what_is_written_is_read_back(ending: str, folder: Path) -> None:
    texts = {"csv": write_csv(CLIPS), "json": write_json_groups([CLIPS]), "jsonl": write_jsonl([CLIPS])}
    path = folder / f"data.{ending}"
    path.write_text(texts[ending], "utf-8")
    groups = read_groups(path, file_format=None, root=None, caption_field="caption")
    assert [shot.caption for shot in shots_of(groups)] == [clip.caption for clip in CLIPS]
    assert [shot.video for shot in shots_of(groups)] == [folder / "a.mp4", folder / "b.mp4"]
    assert len(groups) == (2 if ending == "csv" else 1)


def test_the_official_table_has_the_official_header() -> None:
    assert write_csv([]).strip() == "fps,width,height,caption,path,num_frame"


def test_missing_columns_are_named_with_the_ones_that_are_there(folder: Path) -> None:
    (folder / "d.csv").write_text("fps,file,text\n24,a.mp4,x\n")
    with pytest.raises(
        DatasetError, match=r"d.csv:1: no column path and no column caption; found fps, file, t"
    ):
        _read(folder / "d.csv")


def test_another_caption_column_may_be_named(folder: Path) -> None:
    (folder / "d.csv").write_text("path,caption_long\na.mp4,A tree.\n")
    assert _read(folder / "d.csv", "caption_long") == [("A tree.",)]


def test_all_missing_videos_are_told_with_their_lines(folder: Path) -> None:
    (folder / "d.csv").write_text('path,caption\na.mp4,"two\nlines"\nc.mp4,x\n../d.mp4,y\n')
    with pytest.raises(
        DatasetError, match=r"d.csv:4: path: c.mp4: no such file.*\n.*d.csv:5: path: ../d.mp4"
    ):
        _read(folder / "d.csv")


@pytest.mark.parametrize("address", ["http://host/a.mp4", "file:///etc/passwd", "//host/a.mp4", "concat:a|b"])
def test_addresses_are_refused(address: str, folder: Path) -> None:
    (folder / "d.csv").write_text(f'path,caption\n"{address}",x\n')
    with pytest.raises(DatasetError, match=r"d.csv:2: path: '.*' is an address; only files are read"):
        _read(folder / "d.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", r"d.json:1: not valid JSON: expected a list of groups"),
        ('[{"values": []}]', r"d.json:1: a group without values"),
        ('[\n{"values": [{"url": "a.mp4"}]}]', r"d.json:2: values\[0\].caption: nothing is no text"),
        (
            '[\n\n{"values": [{"url": "c.mp4", "caption": "x"}]}]',
            r"d.json:3: values\[0\].url: c.mp4: no such",
        ),
        ('[\n{"values": 3\n]', r"d.json:3: not valid JSON"),
        ("[" * 100_000, r"d.json:1: nested too deeply$"),
        (f"[\n{'9' * 5000}]", r"d.json:2: a number of 5000 characters; at most 40 are allowed$"),
        ('[{"values": [7]}]', r"d.json:1: values\[0\]: 7 is no object; give one with url and caption$"),
        ('[{"values": [{"url": "a.mp4", "url": "b.mp4"}]}]', r"d.json:1: duplicate key 'url'; keep one$"),
        ("[]", r"d.json: holds no shot"),
    ],
)
def test_a_wrong_list_of_groups_is_told_with_its_line(text: str, message: str, folder: Path) -> None:
    (folder / "d.json").write_text(text)
    with pytest.raises(DatasetError, match=message):
        _read(folder / "d.json")


@pytest.mark.parametrize(
    ("story", "message"),
    [
        ({"m2d": 2, "scenes": [{}]}, r"d.jsonl:1: m2d: 2; this version reads 1"),
        ({"m2d": 1, "scenes": []}, r"d.jsonl:1: no story"),
        ({"m2d": 1, "scenes": [{"video": "a.mp4", "caption": "x", "fsp": 3}]}, r"scenes\[0\]: unknown fsp"),
        (
            {"m2d": 1, "scenes": [{"video": "a.mp4", "caption": "x", "start_s": 2, "end_s": 1}]},
            r"scenes\[0\]: start_s 2, end_s 1; use 0 <= start_s < end_s",
        ),
        ({"m2d": 1, "scenes": [{"video": "a.mp4", "caption": "x", "sha256": "ab"}]}, r"sha256: 'ab'; 64"),
    ],
)
def test_a_wrong_line_is_told_with_its_number(story: object, message: str, folder: Path) -> None:
    (folder / "d.jsonl").write_text(f"{json.dumps(story)}\n")
    with pytest.raises(DatasetError, match=message):
        _read(folder / "d.jsonl")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "d.jsonl",
            '{"m2d": 1, "scenes": [{"video": "a.mp4", "caption": "\\ud800"}]}',
            r"d.jsonl:1: scenes\[0\]: caption: forbidden character U\+D800; remove it",
        ),
        (
            "d.json",
            '[\n{"values": [{"url": "a.mp4", "caption": "\\u001b[31m"}]}]',
            r"d.json:2: values\[0\]: caption: forbidden character U\+001B",
        ),
        ("d.csv", "path,caption\na.mp4,\x07\n", r"d.csv:2: caption: forbidden character U\+0007"),
        ("a.txt", "A \u202e tree.", r"a.txt: caption: forbidden character U\+202E"),
    ],
)
def test_a_character_that_no_recipe_may_hold_is_told_with_its_place(
    name: str, text: str, message: str, folder: Path
) -> None:
    (folder / name).write_text(text, "utf-8")
    with pytest.raises(DatasetError, match=message):
        _read(folder if name == "a.txt" else folder / name)


@pytest.mark.parametrize(
    ("scenes", "message"),
    [
        ('[{"caption": "x", "caption": "y"}]', r"d.jsonl:1: duplicate key 'caption'; keep one$"),
        ('[{"caption": "x", "fps": ' + "9" * 5000 + "}]", r"d.jsonl:1: a number of 5000 characters; at most"),
        ("[" * 100_000, r"d.jsonl:1: nested too deeply$"),
        ('[{"caption": "x", "end_s": 1e400}]', r"d.jsonl:1: scenes\[0\].end_s: must be finite, got inf"),
        ('[{"caption": "x", "start_s": NaN}]', r"d.jsonl:1: scenes\[0\].start_s: must be finite, got nan"),
        ('[{"caption": "x", "end_s": "1"}]', r"d.jsonl:1: scenes\[0\].end_s: '1' is no number of seconds$"),
        ("[7]", r"d.jsonl:1: scenes\[0\]: 7 is no object; give one with video and caption$"),
        ("[]} {", r"d.jsonl:1: not valid JSON: something follows the value at column 26$"),
    ],
)
def test_json_that_says_two_things_or_none_is_refused_in_words(
    scenes: str, message: str, folder: Path
) -> None:
    (folder / "d.jsonl").write_text(f' {{"m2d": 1, "scenes": {scenes}}}\n')
    with pytest.raises(DatasetError, match=message):
        _read(folder / "d.jsonl")


def test_a_column_that_is_there_twice_is_refused(folder: Path) -> None:
    (folder / "d.csv").write_text("path,caption,caption\na.mp4,x,y\n")
    with pytest.raises(DatasetError, match=r"d.csv:1: duplicate column 'caption'; keep one of each$"):
        _read(folder / "d.csv")


def test_an_unknown_ending_asks_for_the_format(folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"nowhere: no such file or folder"):
        _read(folder / "nowhere")
    (folder / "d.txt").write_text("a.mp4")
    with pytest.raises(DatasetError, match=r"no format has the ending '.txt'; set data.format"):
        _read(folder / "d.txt")


def test_captions_over_the_limit_are_told_before_anything_else(folder: Path) -> None:
    (folder / "d.csv").write_text("path,caption\na.mp4,one two\nb.mp4,one two three four\n")
    groups = read_groups(folder / "d.csv", file_format=None, root=None, caption_field="caption")
    with pytest.raises(
        DatasetError, match=r"^[^\n]*d.csv:3: caption 'one two three four': 4 tokens.* at most 3"
    ):
        check_captions(shots_of(groups), count_tokens=lambda text: len(text.split()), max_tokens=3)


def _known(text: str) -> list[str]:
    return [word for word in dict.fromkeys(text.split()) if word not in ("a", "tree")]


def test_empty_captions_and_unknown_words_are_named_with_their_rows(folder: Path) -> None:
    (folder / "d.csv").write_text("path,caption\na.mp4,a tree\nb.mp4, \na.mp4,a dog\nb.mp4,dog cat\n")
    groups = read_groups(folder / "d.csv", file_format=None, root=None, caption_field="caption")
    empty, unknown = caption_warnings(shots_of(groups), unknown_words=_known)
    assert "1 of 4 captions without text (" in empty
    assert "d.csv:3): these clips are trained on without a prompt" in empty
    assert "does not know 2 words in 2 of 4 captions: 'dog' (2x), 'cat' (1x); first in " in unknown
    assert "d.csv:4. All" in unknown


def test_captions_that_are_understood_warn_of_nothing(folder: Path) -> None:
    (folder / "d.csv").write_text("path,caption\na.mp4,a tree\n")
    groups = read_groups(folder / "d.csv", file_format=None, root=None, caption_field="caption")
    assert caption_warnings(shots_of(groups), unknown_words=_known) == []
