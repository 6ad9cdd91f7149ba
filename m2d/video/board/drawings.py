"""Drawings for a page: a mask as squares and a film's lineage as a graph, as plain shapes and numbers.

Owns their geometry, in pixels from the top left; which tags and colours the shapes get is the template's
business. Scenes are those of the story, from 0, until they become labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from m2d.layout import LayoutError, SceneLayout, Segment
from m2d.video.lineage import RunLineage, lineage
from m2d.video.provenance import Provenance, SceneRecord, WindowRecord

# Side of a square with the gap beside it, and room for names; wider for names of three letters.
CELL, WIDE_CELL, GAP, MASK_MARGIN = 18, 22, 2, 34
MOST_SEGMENTS = 24
COLUMN, NARROW_COLUMN, ROW, NODE = 60, 46, 84, 13
# Up to this many scenes get wide columns.
FEW_COLUMNS = 9
GRAPH_LEFT, GRAPH_TOP = 96, 58
# How much higher an arc gets for each scene that it spans, and for how many.
ARC, HIGHEST_ARC = 11, 4
MOST_COLUMNS, MOST_ROWS = 64, 40


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskLabel:
    """A segment's name beside its row and above its column.

    Attributes:
        text: `T1` or `V2r`.
        at: Middle of its row, and of its column.
        is_given: Whether its scene was clean context.
    """

    text: str
    at: float
    is_given: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskSquares:
    """All squares of one kind: `blind`, or what sees what, such as `text-video`: prompts see frames."""

    kind: str
    path: str


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskDrawing:
    """Who may attend to whom in one window.

    Attributes:
        side: Width and height.
        margin: Where the first row and column begin.
    """

    side: int
    margin: int
    labels: tuple[MaskLabel, ...]
    squares: tuple[MaskSquares, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphNode:
    """A scene as one run made it.

    Attributes:
        x: Middle.
        y: Middle.
        label: The scene's number in the film; a dot when it is not in it.
        kind: The run's.
        is_kept: Whether the film shows this version.
    """

    x: int
    y: int
    label: str
    kind: str
    is_kept: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphRow:
    """A run's line: where it is, its number and its kind."""

    y: int
    number: int
    kind: str


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphDrawing:
    """A film's lineage: a row per run, a column per scene.

    Attributes:
        bands: Paths through scenes that were made together.
        arrows: Paths from the scenes that were given to those made from them.
    """

    width: int
    height: int
    rows: tuple[GraphRow, ...]
    nodes: tuple[GraphNode, ...]
    bands: tuple[str, ...]
    arrows: tuple[str, ...]


def draw_mask(provenance: Provenance, window: WindowRecord, mask: object) -> MaskDrawing | None:
    """Draw the mask of a window; None when it is not known, or too large for a picture.

    The picture depends on the scenes alone, not on how many tokens each has.

    Args:
        provenance: Of the film.
        window: One of its windows.
        mask: As the run's parameters name it.
    """
    scenes = sorted(set(window.scenes))
    if not isinstance(mask, str) or 2 * len(scenes) > MOST_SEGMENTS:
        return None
    try:
        layout = SceneLayout.build(
            mask,
            text_tokens=[1] * len(scenes),
            latent_frames=[_num_parts(provenance, scene) for scene in scenes],
            tokens_per_frame=1,
        )
    except LayoutError:
        return None
    segments = layout.segments
    if len(segments) > MOST_SEGMENTS:
        return None
    names = [_segment_label(provenance, segment, scenes[segment.scene]) for segment in segments]
    cell = CELL if max(map(len, names)) < 3 else WIDE_CELL
    return MaskDrawing(
        side=MASK_MARGIN + len(segments) * cell,
        margin=MASK_MARGIN,
        labels=tuple(
            MaskLabel(
                text=name,
                at=MASK_MARGIN + (place + 0.5) * cell - GAP / 2,
                is_given=scenes[segment.scene] not in window.targets,
            )
            for place, (segment, name) in enumerate(zip(segments, names, strict=True))
        ),
        squares=_squares(layout, cell=cell),
    )


def draw_lineage(provenance: Provenance) -> GraphDrawing | None:
    """Draw a film's lineage; None when it is too large for a picture."""
    runs = lineage(provenance)
    columns = _columns(provenance, runs)
    if len(columns) > MOST_COLUMNS or len(runs) > MOST_ROWS:
        return None
    graph = _Graph(provenance, columns)
    for run in runs:
        graph.add_run(run)
    return graph.drawing(runs)


class _Graph:
    """Collects the shapes run by run, and knows where the newest version of each scene stands."""

    def __init__(self, provenance: Provenance, columns: Mapping[int, int]) -> None:
        self._provenance = provenance
        self._columns = columns
        self._width = COLUMN if len(columns) <= FEW_COLUMNS else NARROW_COLUMN
        self._newest: dict[int, int] = {}
        self._nodes: list[GraphNode] = []
        self._bands: list[str] = []
        self._arrows: list[str] = []

    def add_run(self, run: RunLineage) -> None:
        row = run.number - 1
        if not run.record.windows:
            self._newest |= dict.fromkeys(run.made, row)
        for window in run.record.windows:
            self._add_window(window, row)
        for scene in run.made:
            shown = _record(self._provenance, scene)
            self._nodes.append(
                GraphNode(
                    x=self._x(scene),
                    y=_y(row),
                    label=_scene_label(self._provenance, scene),
                    kind=run.kind,
                    is_kept=shown is not None and shown.run == row,
                )
            )

    def _add_window(self, window: WindowRecord, row: int) -> None:
        targets = sorted(set(window.targets))
        for scene in sorted(set(window.scenes) - set(targets)):
            if scene in self._newest:
                self._arrows += [self._arrow(scene, target, row) for target in targets]
        if len(targets) > 1:
            self._bands.append(f"M{self._x(targets[0])} {_y(row)}H{self._x(targets[-1])}")
        self._newest |= dict.fromkeys(targets, row)

    def _arrow(self, scene: int, target: int, row: int) -> str:
        x1, x2, y1, y2 = self._x(scene), self._x(target), _y(self._newest[scene]), _y(row)
        if y1 == y2:
            top = y1 - NODE - ARC * min(abs(x2 - x1) // self._width, HIGHEST_ARC)
            return f"M{x1} {y1 - NODE}C{x1} {top} {x2} {top} {x2} {y2 - NODE - 2}"
        middle = (y1 + y2) // 2
        return f"M{x1} {y1 + NODE}C{x1} {middle} {x2} {middle} {x2} {y2 - NODE - 2}"

    def drawing(self, runs: Sequence[RunLineage]) -> GraphDrawing:
        return GraphDrawing(
            width=GRAPH_LEFT + len(self._columns) * self._width,
            height=GRAPH_TOP + (len(runs) - 1) * ROW + 2 * NODE,
            rows=tuple(GraphRow(y=_y(row), number=run.number, kind=run.kind) for row, run in enumerate(runs)),
            nodes=tuple(self._nodes),
            bands=tuple(self._bands),
            arrows=tuple(self._arrows),
        )

    def _x(self, scene: int) -> int:
        return GRAPH_LEFT + self._columns[scene] * self._width + self._width // 2


def _squares(layout: SceneLayout, *, cell: int) -> tuple[MaskSquares, ...]:
    side = cell - GAP
    paths: dict[str, str] = {}
    for row, query in enumerate(layout.segments):
        for column, key in enumerate(layout.segments):
            kind = f"{query.kind}-{key.kind}" if layout.may_attend[row, column] else "blind"
            x, y = (MASK_MARGIN + place * cell for place in (column, row))
            paths[kind] = paths.get(kind, "") + f"M{x} {y}h{side}v{side}h-{side}z"
    return tuple(MaskSquares(kind=kind, path=path) for kind, path in sorted(paths.items()))


def _y(row: int) -> int:
    return GRAPH_TOP + row * ROW


def _columns(provenance: Provenance, runs: Sequence[RunLineage]) -> dict[int, int]:
    """The column of every scene that the film has or that a run saw."""
    first = provenance.first_scene
    scenes = set(range(first, first + len(provenance.scenes)))
    for run in runs:
        scenes |= {scene for window in run.record.windows for scene in (*window.scenes, *window.targets)}
    return {scene: column for column, scene in enumerate(sorted(scenes))}


def _num_parts(provenance: Provenance, scene: int) -> int:
    """Latent frames, as far as a mask may tell them apart: the first, and the others if there are any."""
    shown = _record(provenance, scene)
    return 1 if shown is not None and shown.num_frames == 1 else 2


def _record(provenance: Provenance, scene: int) -> SceneRecord | None:
    """The scene in the film; None when it is not there."""
    index = scene - provenance.first_scene
    return provenance.scenes[index] if 0 <= index < len(provenance.scenes) else None


def _scene_label(provenance: Provenance, scene: int) -> str:
    number = scene - provenance.first_scene + 1
    return str(number) if number >= 1 else "\N{MIDDLE DOT}"


def _segment_label(provenance: Provenance, segment: Segment, scene: int) -> str:
    suffix = "" if segment.part == "all" else segment.part[0]
    return f"{segment.kind[0].upper()}{_scene_label(provenance, scene)}{suffix}"
