"""Masks and lineages as shapes: what is drawn is what the layout and the provenance say."""

from __future__ import annotations

import re

import pytest

from m2d.layout import SceneLayout
from m2d.video.board.drawings import MaskDrawing, draw_lineage, draw_mask
from m2d.video.provenance import Provenance, WindowRecord
from tests.m2d.video.grown_films import EXTEND, FOOTAGE, GENERATE, grown


def squares_of(drawing: MaskDrawing) -> dict[tuple[int, int], str]:
    """The kind of square at each row and column."""
    side = (drawing.side - drawing.margin) // len(drawing.labels)
    found = {}
    for kind, path in drawing.squares:
        for x, y in re.findall(r"M(\d+) (\d+)h", path):
            place = ((int(y) - drawing.margin) // side, (int(x) - drawing.margin) // side)
            assert place not in found
            found[place] = kind
    return found


def window(provenance: Provenance, run: int, index: int) -> WindowRecord:
    return provenance.runs[run].windows[index]


@pytest.mark.parametrize(
    "mask", ["isolated", "mask2dit", "shared-text", "cross-text", "full", "causal", "window:2", "anchor"]
)
def test_a_mask_is_drawn_as_its_layout_has_it(mask: str) -> None:
    provenance, _ = grown()
    drawing = draw_mask(provenance, window(provenance, 0, 0), mask)
    assert drawing is not None
    # The real one of such a story: many tokens, the same picture.
    layout = SceneLayout.build(mask, text_tokens=[64] * 3, latent_frames=[3] * 3, tokens_per_frame=16)
    seen = {place: kind != "blind" for place, kind in squares_of(drawing).items()}
    matrix = layout.may_attend
    assert seen == {(row, column): bool(matrix[row, column]) for row, column in seen}
    assert len(seen) == matrix.size
    assert [label.text for label in drawing.labels] == [segment.label for segment in layout.segments]


def test_squares_tell_what_sees_what() -> None:
    provenance, _ = grown()
    drawing = draw_mask(provenance, window(provenance, 0, 0), "mask2dit")
    assert drawing is not None
    found = squares_of(drawing)
    assert (found[0, 0], found[0, 3], found[3, 0], found[3, 4], found[0, 1]) == (
        "text-text",
        "text-video",
        "video-text",
        "video-video",
        "blind",
    )


def test_labels_carry_the_film_s_numbers_and_tell_what_was_given() -> None:
    provenance, _ = grown()
    drawing = draw_mask(provenance, window(provenance, 1, 1), "mask2dit")
    assert drawing is not None
    assert [(label.text, label.is_given) for label in drawing.labels] == [
        ("T3", True),
        ("T4", True),
        ("T5", False),
        ("V3", True),
        ("V4", True),
        ("V5", False),
    ]


@pytest.mark.parametrize("mask", [None, 7, "", "unheard-of", "window:0"])
def test_a_mask_that_is_not_known_is_not_drawn(mask: object) -> None:
    provenance, _ = grown()
    assert draw_mask(provenance, window(provenance, 0, 0), mask) is None


def test_a_mask_of_very_many_scenes_is_not_drawn() -> None:
    story = (("generate", [(range(13), range(13))]),)
    provenance, _ = grown(story, (0,) * 13)
    assert draw_mask(provenance, window(provenance, 0, 0), "full") is None


def test_the_graph_has_a_row_for_each_run_and_a_node_for_each_version_of_a_scene() -> None:
    graph = draw_lineage(grown()[0])
    assert graph is not None
    assert [(row.number, row.kind) for row in graph.rows] == [(1, "generate"), (2, "extend"), (3, "reroll")]
    assert [(node.label, node.kind, node.is_kept) for node in graph.nodes] == [
        ("1", "generate", True),
        ("2", "generate", False),
        ("3", "generate", True),
        ("4", "extend", True),
        ("5", "extend", True),
        ("2", "reroll", True),
    ]
    x_of = {node.label: node.x for node in graph.nodes}
    assert sorted(x_of.values()) == [x_of[label] for label in "12345"]
    assert len(graph.bands) == 1
    assert len(graph.arrows) == 6
    assert max(node.x for node in graph.nodes) < graph.width
    assert max(node.y for node in graph.nodes) < graph.height


def test_arrows_lead_from_the_version_that_was_seen() -> None:
    graph = draw_lineage(grown()[0])
    assert graph is not None
    old, new = (node for node in graph.nodes if node.label == "2")
    fourth = next(node for node in graph.nodes if node.label == "4")
    starts = [arrow.split("C")[0] for arrow in graph.arrows if f" {fourth.x} {fourth.y - 15}" in arrow]
    assert f"M{old.x} {old.y + 13}" in starts
    assert not [start for start in starts if start.endswith(f" {new.y + 13}")]


def test_scenes_of_another_film_have_no_arrows_to_them() -> None:
    graph = draw_lineage(grown((FOOTAGE, ("extend", [((0, 1, 2), (2,))])), (0, 0, 1))[0])
    assert graph is not None
    assert [node.kind for node in graph.nodes] == ["footage", "footage", "extend"]
    assert len(graph.arrows) == 2


def test_scenes_that_are_not_in_the_film_are_dots() -> None:
    graph = draw_lineage(grown((GENERATE, EXTEND), (1, 1), first_scene=3)[0])
    assert graph is not None
    assert [(node.label, node.is_kept) for node in graph.nodes] == [
        ("\N{MIDDLE DOT}", False),
        ("\N{MIDDLE DOT}", False),
        ("\N{MIDDLE DOT}", False),
        ("1", True),
        ("2", True),
    ]


def test_a_lineage_of_very_many_scenes_is_not_drawn() -> None:
    assert draw_lineage(grown((("generate", [((0,), (0,))]),), (0,) * 65)[0]) is None
