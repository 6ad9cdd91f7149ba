"""Stage `caption`: a text for every shot of a group, from files beside the films or from a model.

Owns which source is used and what a valid group of captions is.
"""

from __future__ import annotations

from collections.abc import Sequence

from m2d.curation.caption_requests import ask_captions
from m2d.curation.caption_rules import Captions
from m2d.curation.data_set import DataSet
from m2d.curation.filter import shot_name
from m2d.curation.relate import Group
from m2d.curation.sidecar import caption_of, read_sidecar
from m2d.curation.stage_file import Outcome, StageFile, key_of
from m2d.errors import InputError
from m2d.progress import Reporter
from m2d.recipe.places import shows_nothing
from m2d.stop import StopRequest

_VERSION = "caption/1"
SIDECAR = "sidecar"


def caption_groups(
    data: DataSet,
    groups: Sequence[Group],
    file: StageFile[Captions],
    *,
    reporter: Reporter,
    stop: StopRequest,
) -> list[Outcome[Captions]]:
    """Caption every group and write the stage.

    Raises:
        InputError: The source is an endpoint without an address, a model or files that are not there.
        DatasetError: A file beside a film is wrong, or the model fails.
    """
    settings = data.settings.caption
    films = dict.fromkeys(shot.film for group in groups for shot in group.shots)
    spans = {film: read_sidecar(data.film(film)) for film in films}
    source: str = settings.source
    if source == "auto":
        source = "endpoint" if settings.url else SIDECAR if any(spans.values()) else "none"
    if source == "endpoint":
        from m2d.curation.caption_endpoint import Endpoint

        return ask_captions(data, groups, file, Endpoint, reporter=reporter, stop=stop)
    if source == "local":
        from m2d.curation.local_captioner import LocalCaptioner

        return ask_captions(data, groups, file, LocalCaptioner, reporter=reporter, stop=stop)
    if source == SIDECAR and groups and not any(spans.values()):
        raise InputError("caption.source: sidecar, but no film has a file with captions beside it")
    if source == "none" and groups:
        reporter.warn(f"{len(groups)} groups get no captions: no endpoint and no file beside the films")
    lines = []
    for group in groups:
        texts = tuple("" if source == "none" else caption_of(shot, spans[shot.film]) for shot in group.shots)
        missing = [shot for shot, text in zip(group.shots, texts, strict=True) if shows_nothing(text)]
        reason = f"has no caption: for {shot_name(missing[0])}" if missing and source == SIDECAR else ""
        by = SIDECAR if source == SIDECAR else ""
        captions = Captions(group=group.name, texts=texts, by=by)
        key = key_of(_VERSION, group.name, texts, by)
        lines.append(Outcome(key=key, place=group.name, outputs=() if reason else (captions,), reason=reason))
    file.known()
    file.finish(lines)
    return lines
