from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from m2d.data.dataset_file import read_groups
from m2d.errors import DatasetError


def _fill(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")


def _read(folder: Path) -> tuple[list[list[str]], list[str]]:
    """Return the captions of every group, and the warnings."""
    warnings: list[str] = []
    groups = read_groups(folder, file_format=None, root=None, caption_field="caption", warn=warnings.append)
    return [[shot.caption for shot in group.shots] for group in groups], warnings


def test_a_video_and_a_text_of_the_same_name_are_a_story_of_one_scene(tmp_path: Path) -> None:
    _fill(tmp_path, **{"a.mp4": "", "a.txt": "\ufeffA  tree.\n", "b.MOV": "", "b.TXT": "A house.\r\n"})
    assert _read(tmp_path) == ([["A tree."], ["A house."]], [])


def test_videos_in_a_folder_below_are_the_scenes_of_one_story_in_natural_order(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        name = f"walk/scene-{number}"
        _fill(tmp_path, **{f"{name}.mp4": "", f"{name}.txt": f"Scene {number}."})
    _fill(tmp_path, **{".hidden/a.mp4": "", ".hidden/a.txt": "No.", "walk/._scene-1.mp4": ""})
    assert _read(tmp_path) == ([["Scene 1.", "Scene 2.", "Scene 10."]], [])


def test_what_has_no_partner_is_listed_with_the_nearest_name(tmp_path: Path) -> None:
    _fill(tmp_path, **{"a.mp4": "", "a.txt": "A.", "clip-one.mp4": "", "clip_one.txt": "B.", "z.txt": "C."})
    groups, (videos, captions) = _read(tmp_path)
    assert groups == [["A."]]
    assert "1 video without a caption" in videos
    assert "clip-one.mp4 (there is clip_one.txt); left out" in videos
    assert "2 captions without a video" in captions
    assert "clip_one.txt" in captions
    assert "z.txt" in captions


def test_a_scene_without_a_caption_divides_its_story(tmp_path: Path) -> None:
    _fill(tmp_path, **{f"s/{name}.mp4": "" for name in "abc"}, **{"s/a.txt": "A.", "s/c.txt": "C."})
    assert _read(tmp_path)[0] == [["A."], ["C."]]


def test_names_in_another_unicode_form_are_the_same(tmp_path: Path) -> None:
    name = "caf\u00e9"
    _fill(tmp_path, **{f"{unicodedata.normalize('NFD', name)}.mp4": "", f"{name}.txt": "Coffee."})
    assert _read(tmp_path) == ([["Coffee."]], [])


def test_a_folder_without_a_pair_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no video with a caption, such as a.mp4 .*; it holds no video"):
        _read(tmp_path)
    _fill(tmp_path, **{"a.mp4": ""})
    with pytest.raises(
        DatasetError, match=r"no video with a caption.*1 video without a caption in a .txt.*a.mp4"
    ):
        _read(tmp_path)


def test_a_caption_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    _fill(tmp_path, **{"a.mp4": ""})
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DatasetError, match=r"a.txt: not UTF-8 text \(byte 3\)"):
        _read(tmp_path)


def test_a_description_in_the_folder_is_read_in_place_of_pairs(tmp_path: Path) -> None:
    _fill(tmp_path, **{"a.mp4": "", "a.txt": "Not this.", "pretrain.csv": "path,caption\na.mp4,This.\n"})
    assert _read(tmp_path) == ([["This."]], [])
    _fill(tmp_path, **{"sft.json": "[]"})
    with pytest.raises(DatasetError, match=r"several descriptions of a dataset; give one of .*sft.json"):
        _read(tmp_path)
