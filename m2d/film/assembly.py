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
from m2d.joins import Join
from m2d.pipeline.decoding import SceneDecoder, ShownFrames, decode_matched
from m2d.pipeline.observer import never_stop
from m2d.progress import Clock
from m2d.recipe.plan import ScenePlan
from m2d.video.digests import array_digest
from m2d.video.fitting import reduction
from m2d.video.joining import MOST_CONTINUED_JUMP, colour_jump, recolour
from m2d.video.packets import EncodedScene
from m2d.video.provenance_builder import MadeScene


class AssembledFilm(NamedTuple):
    """All scenes of a film.

    Attributes:
        scenes: The scenes in order; a copied scene has frames only if a neighbour needed them.
        copies: Number of a copied scene to its packets in the input film.
        encoded: Number of an old scene to all of its packets there.
        is_tiled: Whether a scene was decoded in tiles, which changes its frames.
    """

    scenes: tuple[MadeScene, ...]
    copies: Mapping[int, EncodedScene]
    encoded: Mapping[int, EncodedScene]
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
        clock: Receives the stage, and a warning if an old scene decodes to other frames than before or a new
            one does not continue the frame that it was given.
        check_stop: Called between scenes; it raises to end the run there.

    Raises: as `SceneDecoder.decode`.
    """
    given = {
        number: scene
        for number, scene in enumerate(film.scenes if film is not None else ())
        if scene.run == runs[number]
    }
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
            if film is not None and number in given and given[number].is_decoded_from_film:
                shown = ShownFrames(_ends(given[number], film), None)
            elif number in given:
                shown = _decode_again(given[number], latents[number], number, decoder)
                _warn_if_changed(shown.frames_PHWC, given[number], number, clock)
            else:
                before_PHWC = before.frames_PHWC if before is not None and scene.match_colour else None
                shown = decode_matched(decoder, latents[number], scene=number, before_PHWC=before_PHWC)
            is_tiled = is_tiled or decoder.strategy == "tiled"
            new = _made_scene(scene, *shown, latents.get(number), run=runs[number])
            if before is not None and before.frames_PHWC is not None:
                jump = _jump(before.frames_PHWC, shown.frames_PHWC, scene.join, film)
                new = replace(new, colour_jump=jump)
                # A scene without a seed was not generated: the model may not know such pictures.
                if number not in given and scenes[number - 1].seed is None:
                    _warn_if_not_continued(scene.join, jump, number, clock)
            is_kept = number in copies or _is_known_by_record(given.get(number))
            made.append(_as_copied(new, given[number], number, copies) if is_kept else new)
            progress.advance()
    encoded = {number: scene.encoded for number, scene in given.items() if scene.encoded is not None}
    return AssembledFilm(tuple(made), copies, encoded, is_tiled)


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


def _is_known_by_record(given: LoadedScene | None) -> bool:
    """Whether a scene's record cannot be made from its frames, because only some of them were decoded."""
    return given is not None and given.record is not None and given.is_decoded_from_film


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


def _jump(before_PHWC: np.ndarray, after_PHWC: np.ndarray, join: Join, film: LoadedFilm | None) -> float:
    if film is None or film.fit is None or not join.num_frames:
        return colour_jump(before_PHWC, after_PHWC, join)
    # A crossfade counts frames of the film, which shows frames of the model several times.
    places = range(join.num_frames + 1)
    held = [film.fit.model_frame(place, num_frames=len(after_PHWC)) for place in places]
    back = [film.fit.model_frame(place, num_frames=len(before_PHWC)) for place in places]
    return colour_jump(before_PHWC[[-1 - number for number in reversed(back)]], after_PHWC[held], join)


def _ends(given: LoadedScene, film: LoadedFilm) -> np.ndarray:
    """Return the frames of an external scene that neighbours need: the first one and the clip at its end."""
    clip_PHWC = given.clip(upscale=film.upscale, fit=film.fit)
    if given.encoded is None:
        return clip_PHWC
    (first_HWC,) = given.encoded.picked([0], upscale=film.upscale)
    if film.fit is not None:
        height, width = clip_PHWC.shape[1:3]
        first_HWC = reduction(film.fit, height=height, width=width).apply(first_HWC)
    return np.concatenate([first_HWC[None], clip_PHWC])


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
        film_frames=scene.film_frames,
    )


def _warn_if_not_continued(join: Join, jump: float, number: int, clock: Clock) -> None:
    if join.kind == "continue" and jump > MOST_CONTINUED_JUMP:
        clock.reporter.warn(
            f"scene {number + 1} does not continue the picture before it: colours jump by {jump:.0f} levels "
            f"after its first frame (at most {MOST_CONTINUED_JUMP:.0f} where the model knows such pictures)"
        )


def _warn_if_changed(frames_PHWC: np.ndarray, given: LoadedScene, number: int, clock: Clock) -> None:
    if given.frames_sha256 is not None and array_digest(frames_PHWC) != given.frames_sha256:
        clock.reporter.warn(
            f"scene {number + 1} decodes to other frames than before: package versions, the machine or the "
            "decode strategy have changed"
        )
