"""Drawings for a page: a mask as squares and a film's lineage as a graph.

Owns their geometry, in pixels from the top left; the template owns tags and colours. Scenes are numbered from
0 within the story; labels number them from 1 within the film.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from m2d.layout import LayoutError, SceneLayout, Segment
from m2d.video.lineage import RunLineage, lineage
from m2d.video.provenance import Provenance, SceneRecord, WindowRecord

# Side of a square with the gap beside it (wider for names of three letters), and room for names.
CELL, WIDE_CELL, GAP, MASK_MARGIN = 18, 22, 2, 34
MOST_SEGMENTS = 24
COLUMN, NARROW_COLUMN, ROW, NODE = 60, 46, 84, 13
# Up to this many scenes get wide columns.
FEW_COLUMNS = 9
GRAPH_LEFT, GRAPH_TOP = 96, 58
# An arc gets higher by this much for each scene that it spans, up to a number of scenes.
ARC, HIGHEST_ARC = 11, 4
MOST_COLUMNS, MOST_ROWS = 64, 40


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskLabel:
    """A segment's name beside its row and above its column.

    Attributes:
        text: `T1` or `V2r`.
        at: Centre of its row and of its column.
        is_given: Whether its scene was clean context.
    """

    text: str
    at: float
    is_given: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskDrawing:
    """The attention mask of one window.

    Attributes:
        side: Width and height of the drawing.
        margin: Where the first row and column begin.
        squares: Kind to the path of all its squares. A kind is `blind`, or query and key: `text-video` where
            prompts see frames.
    """

    side: int
    margin: int
    labels: tuple[MaskLabel, ...]
    squares: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphNode:
    """A scene as one run made it.

    Attributes:
        label: The scene's number in the film; a dot for a scene outside the film.
        is_kept: Whether the film shows this version.
    """

    x: int
    y: int
    label: str
    kind: str
    is_kept: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphRow:
    """The row of a run: its position, number and kind."""

    y: int
    number: int
    kind: str


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphDrawing:
    """A film's lineage: a row per run, a column per scene.

    Attributes:
        bands: Paths through scenes that were made together.
        arrows: Paths from context scenes to the scenes made from them.
    """

    width: int
    height: int
    rows: tuple[GraphRow, ...]
    nodes: tuple[GraphNode, ...]
    bands: tuple[str, ...]
    arrows: tuple[str, ...]


def draw_mask(provenance: Provenance, window: WindowRecord, mask: object) -> MaskDrawing | None:
    """Draw the mask of a window; None when the mask is unknown or the window has too many scenes.

    Each scene has the same size, whatever its number of tokens.

    Args:
        mask: The mask's name in the run's parameters.
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
    """Draw a film's lineage; None when it has too many scenes or runs."""
    runs = lineage(provenance)
    columns = _columns(provenance, runs)
    if len(columns) > MOST_COLUMNS or len(runs) > MOST_ROWS:
        return None
    graph = _Graph(provenance, columns)
    for run in runs:
        graph.add_run(run)
    return graph.drawing(runs)


class _Graph:
    """Collects the shapes run by run, and the row of each scene's newest version."""

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


def _squares(layout: SceneLayout, *, cell: int) -> tuple[tuple[str, str], ...]:
    side = cell - GAP
    paths: dict[str, str] = {}
    for row, query in enumerate(layout.segments):
        for column, key in enumerate(layout.segments):
            kind = f"{query.kind}-{key.kind}" if layout.may_attend[row, column] else "blind"
            x, y = (MASK_MARGIN + place * cell for place in (column, row))
            paths[kind] = paths.get(kind, "") + f"M{x} {y}h{side}v{side}h-{side}z"
    return tuple(sorted(paths.items()))


def _y(row: int) -> int:
    return GRAPH_TOP + row * ROW


def _columns(provenance: Provenance, runs: Sequence[RunLineage]) -> dict[int, int]:
    """Return the column of every scene in the film or in a window."""
    first = provenance.first_scene
    scenes = set(range(first, first + len(provenance.scenes)))
    for run in runs:
        scenes |= {scene for window in run.record.windows for scene in (*window.scenes, *window.targets)}
    return {scene: column for column, scene in enumerate(sorted(scenes))}


def _num_parts(provenance: Provenance, scene: int) -> int:
    """Number of latent frames that a mask distinguishes: the first, and the rest if there is any."""
    shown = _record(provenance, scene)
    return 1 if shown is not None and shown.num_frames == 1 else 2


def _record(provenance: Provenance, scene: int) -> SceneRecord | None:
    """Return the record of a scene; None for a scene outside the film."""
    index = scene - provenance.first_scene
    return provenance.scenes[index] if 0 <= index < len(provenance.scenes) else None


def _scene_label(provenance: Provenance, scene: int) -> str:
    number = scene - provenance.first_scene + 1
    return str(number) if number >= 1 else "\N{MIDDLE DOT}"


def _segment_label(provenance: Provenance, segment: Segment, scene: int) -> str:
    suffix = "" if segment.part == "all" else segment.part[0]
    return f"{segment.kind[0].upper()}{_scene_label(provenance, scene)}{suffix}"
