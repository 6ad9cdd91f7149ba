"""Assemble a film's scenes: decode latents, match colours, measure colour jumps, and copy unchanged scenes.

Owns the order, because a scene is matched to the shown frames of the one before it, and which scenes are not
decoded. P frames, F latent frames, C channels, H W height and width, L levels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from torch import Tensor

from m2d.film.loaded_film import LoadedFilm, LoadedScene
from m2d.pipeline.decoding import SceneDecoder, ShownFrames, decode_matched
from m2d.pipeline.observer import never_stop
from m2d.progress import Clock
from m2d.recipe.plan import ScenePlan
from m2d.video.digests import array_digest
from m2d.video.joining import colour_jump, recolour
from m2d.video.packets import EncodedScene
from m2d.video.provenance_builder import MadeScene


class AssembledFilm(NamedTuple):
    """All scenes of a film.

    Attributes:
        scenes: The scenes in order; a copied scene has frames only if a neighbour needed them.
        copies: Number of a copied scene to its packets in the input film.
        is_tiled: Whether a scene was decoded in tiles, which changes its frames.
    """

    scenes: tuple[MadeScene, ...]
    copies: Mapping[int, EncodedScene]
    is_tiled: bool


def assemble(
    scenes: Sequence[ScenePlan],
    latents: Mapping[int, Tensor],
    *,
    runs: Sequence[int],
    film: LoadedFilm | None,
    decoder: SceneDecoder,
    clock: Clock,
    check_stop: Callable[[], None] = never_stop,
) -> AssembledFilm:
    """Decode the new scenes of a film, and the old scenes that their transitions need.

    Args:
        latents: Scene number to latents FCHW; external scenes outside the context have none.
        runs: For every scene, the index of the run that made it.
        film: The film that the first run started from.
        decoder: Decodes one scene.
        clock: Receives the stage, and a warning if an old scene decodes to other frames than before.
        check_stop: Called between scenes; it raises to end the run there.

    Raises: as `SceneDecoder.decode`.
    """
    given = {
        number: scene
        for number, scene in enumerate(film.scenes if film is not None else ())
        if scene.run == runs[number]
    }
    upscale = film.upscale if film is not None else 1
    copies = _copies(scenes, given)
    made: list[MadeScene] = []
    is_tiled = False
    wanted = [number for number in range(len(scenes)) if _is_wanted(number, copies, num_scenes=len(scenes))]
    with clock.stage("decode", total=len(wanted)) as progress:
        for number, scene in enumerate(scenes):
            check_stop()
            before = made[-1] if made else None
            if number not in wanted or _has_no_frames(number, given, copies):
                made.append(_copied_scene(scene, given[number], latents.get(number)))
                continue
            if number in given and (given[number].is_clipped or given[number].is_film_only):
                shown = ShownFrames(_ends(given[number], upscale=upscale), None)
            elif number in given:
                shown = _decode_again(given[number], latents[number], number, decoder)
                _warn_if_changed(shown.frames_PHWC, given[number], number, clock)
            else:
                before_PHWC = before.frames_PHWC if before is not None and scene.match_colour else None
                shown = decode_matched(decoder, latents[number], scene=number, before_PHWC=before_PHWC)
            is_tiled = is_tiled or decoder.strategy == "tiled"
            new = _made_scene(scene, *shown, latents.get(number), run=runs[number])
            if before is not None and before.frames_PHWC is not None:
                jump = colour_jump(before.frames_PHWC, shown.frames_PHWC, scene.join)
                new = replace(new, colour_jump=jump)
            made.append(_as_copied(new, given[number], number, copies) if number in copies else new)
            progress.advance()
    return AssembledFilm(tuple(made), copies, is_tiled)


def _copies(scenes: Sequence[ScenePlan], given: Mapping[int, LoadedScene]) -> dict[int, EncodedScene]:
    """Return the packets of old scenes that are unchanged: they do not start with a blend of a new scene."""
    copies = {}
    for number, scene in given.items():
        if scene.encoded is None or scene.record is None:
            continue
        if scenes[number].join.num_frames and number - 1 not in given:
            continue
        closing = scenes[number + 1].join.num_frames if number + 1 < len(scenes) else 0
        num_shown = scene.record.num_frames - closing
        # The frames of a closing crossfade belong to the scene after it.
        if num_shown <= len(scene.encoded):
            copies[number] = scene.encoded.first(num_shown)
    return copies


def _has_no_frames(number: int, given: Mapping[int, LoadedScene], copies: Mapping[int, EncodedScene]) -> bool:
    """Whether a scene is not transcoded yet, as in a draft that extends an external video."""
    return number in given and number not in copies and given[number].is_film_only


def _is_wanted(number: int, copies: Mapping[int, EncodedScene], *, num_scenes: int) -> bool:
    """Whether a scene's frames are needed, for encoding or for a transition with a neighbour."""
    around = range(max(number - 1, 0), min(number + 2, num_scenes))
    return any(neighbour not in copies for neighbour in around)


def _as_copied(
    made: MadeScene, given: LoadedScene, number: int, copies: Mapping[int, EncodedScene]
) -> MadeScene:
    """Give a decoded scene that is also copied the record of its copy."""
    assert given.record is not None
    is_old_transition = number == 0 or number - 1 in copies
    jump = given.record.colour_jump if is_old_transition else made.colour_jump
    # Latents encoded from packets are not stored: a later run encodes them again.
    latents_FCHW = None if given.is_film_only else made.latents_FCHW
    return replace(made, kept=given.record, colour_jump=jump, latents_FCHW=latents_FCHW)


def _ends(given: LoadedScene, *, upscale: int) -> np.ndarray:
    """Return the frames of an external scene that neighbours need: the first one and the clip at its end."""
    clip_PHWC = given.clip(upscale=upscale)
    if given.encoded is None:
        return clip_PHWC
    return np.concatenate([np.stack(given.encoded.picked([0], upscale=upscale)), clip_PHWC])


def _copied_scene(scene: ScenePlan, given: LoadedScene, latents_FCHW: Tensor | None) -> MadeScene:
    """Return a copied scene with its record in the input film."""
    latents_FCHW = None if given.is_film_only else latents_FCHW
    made = _made_scene(scene, given.frames_PHWC, given.colour_map_LC, latents_FCHW, run=given.run)
    return replace(
        made, colour_jump=None if given.record is None else given.record.colour_jump, kept=given.record
    )


def _decode_again(
    given: LoadedScene, latents_FCHW: Tensor, number: int, decoder: SceneDecoder
) -> ShownFrames:
    """Return an old scene's frames with its old colour map, even if the scene before it has changed."""
    map_LC = given.colour_map_LC
    if given.frames_PHWC is not None:
        return ShownFrames(given.frames_PHWC, map_LC)
    frames_PHWC = decoder.decode(latents_FCHW, scene=number)
    return ShownFrames(frames_PHWC if map_LC is None else recolour(frames_PHWC, map_LC), map_LC)


def _made_scene(
    scene: ScenePlan,
    frames_PHWC: np.ndarray | None,
    colour_map_LC: np.ndarray | None,
    latents_FCHW: Tensor | None,
    *,
    run: int,
) -> MadeScene:
    return MadeScene(
        prompt=scene.prompt,
        negative_prompt=scene.negative_prompt,
        guidance_scale=None if scene.seed is None else scene.guidance_scale,
        seed=scene.seed,
        run=run,
        frames_PHWC=frames_PHWC,
        latents_FCHW=None if latents_FCHW is None else latents_FCHW.numpy(),
        join=scene.join,
        colour_map_LC=colour_map_LC,
    )


def _warn_if_changed(frames_PHWC: np.ndarray, given: LoadedScene, number: int, clock: Clock) -> None:
    if given.frames_sha256 is not None and array_digest(frames_PHWC) != given.frames_sha256:
        clock.reporter.warn(
            f"scene {number + 1} decodes to other frames than before: package versions, the machine or the "
            "decode strategy have changed"
        )
