"""Assembly: from latents to a film's scenes as they are written: decoded, matched in colour, measured.

Owns the order (a scene is matched to the one before it as that is shown) and which scenes are not decoded:
those whose frames are there, and those that are copied as they are encoded. P frames, F latent frames, C
channels, H W height and width, L levels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from torch import Tensor

from m2d.film.loaded_film import LoadedFilm, LoadedScene
from m2d.model.decoding import SceneDecoder
from m2d.pipeline.decoding import ShownFrames, decode_matched
from m2d.pipeline.observer import never_stop
from m2d.progress import Clock
from m2d.recipe.plan import ScenePlan
from m2d.video.digests import frames_digest
from m2d.video.joining import colour_jump, recolour
from m2d.video.packets import EncodedScene
from m2d.video.provenance_builder import MadeScene


class Assembled(NamedTuple):
    """All scenes of a film.

    Attributes:
        scenes: In their order; those that were copied have no frames unless a neighbour needed them.
        copies: Scene to what is shown of it, as it is encoded in the film that was gone on from.
        is_tiled: Whether some were decoded in tiles, which gives other frames.
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
) -> Assembled:
    """Decode the scenes of a film that are new, and what their joins need of the others.

    Args:
        scenes: All of them.
        latents: Latents FCHW of each; footage that no model was given has none.
        runs: Index of the run that made each.
        film: The film that was gone on from: what its frames were, and those that no latents give.
        decoder: Decodes one scene.
        clock: Is told of the stage, and warned when a scene does not come out as it was.
        check_stop: Called between scenes; it raises to end the run there.

    Raises:
        Interrupted: `check_stop` raised it.
        DecodingError: There is too little memory.
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
            if number not in wanted or _is_absent(number, given, copies):
                made.append(_taken_over(scene, given[number], latents.get(number), run=runs[number]))
                continue
            if number in given and (given[number].is_clipped or given[number].is_bare):
                look = ShownFrames(_ends(given[number], upscale=upscale), None)
            elif number in given:
                look = _look_again(given[number], latents[number], number, decoder)
                _compare(look.frames_PHWC, given[number], number, clock)
            else:
                before_PHWC = before.frames_PHWC if before is not None and scene.match_colour else None
                look = decode_matched(decoder, latents[number], scene=number, before_PHWC=before_PHWC)
            is_tiled = is_tiled or decoder.rung == "tiled"
            one = _made(scene, look, latents.get(number), run=runs[number], before=before)
            made.append(_as_told(one, given[number], number, copies) if number in copies else one)
            progress.advance()
    return Assembled(tuple(made), copies, is_tiled)


def _copies(scenes: Sequence[ScenePlan], given: Mapping[int, LoadedScene]) -> dict[int, EncodedScene]:
    """Scenes that are shown as they were: made before, and beginning with no blend of a new one."""
    copies = {}
    for number, scene in given.items():
        if scene.encoded is None or scene.record is None:
            continue
        if scenes[number].join.num_frames and number - 1 not in given:
            continue
        closing = scenes[number + 1].join.num_frames if number + 1 < len(scenes) else 0
        num_shown = scene.record.num_frames - closing
        # What opens a crossfade is shown by the scene after it.
        if num_shown <= len(scene.encoded):
            copies[number] = scene.encoded.first(num_shown)
    return copies


def _is_absent(number: int, given: Mapping[int, LoadedScene], copies: Mapping[int, EncodedScene]) -> bool:
    """Whether nothing of a scene is at hand, as in a draft that goes on from footage."""
    return number in given and number not in copies and given[number].is_bare


def _is_wanted(number: int, copies: Mapping[int, EncodedScene], *, num_scenes: int) -> bool:
    """Whether a scene's frames are needed: to be encoded, or to be joined with a neighbour's."""
    around = range(max(number - 1, 0), min(number + 2, num_scenes))
    return any(neighbour not in copies for neighbour in around)


def _as_told(
    made: MadeScene, given: LoadedScene, number: int, copies: Mapping[int, EncodedScene]
) -> MadeScene:
    """A copied scene that a neighbour needs: what is told of it is what the copy shows."""
    assert given.record is not None
    is_old_join = number == 0 or number - 1 in copies
    jump = given.record.colour_jump if is_old_join else made.colour_jump
    # What a model was given once of footage in passing comes from the film again the next time.
    latents_FCHW = None if given.is_bare else made.latents_FCHW
    return replace(made, kept=given.record, colour_jump=jump, latents_FCHW=latents_FCHW)


def _ends(given: LoadedScene, *, upscale: int) -> np.ndarray:
    """Of footage, what neighbours need: its first frame, and the clip that it ends with."""
    clip_PHWC = given.clip(upscale=upscale)
    if given.encoded is None:
        return clip_PHWC
    return np.concatenate([np.stack(given.encoded.picked([0], upscale=upscale)), clip_PHWC])


def _taken_over(scene: ScenePlan, given: LoadedScene, latents_FCHW: Tensor | None, *, run: int) -> MadeScene:
    """A scene that is copied, as the film tells of it."""
    return MadeScene(
        prompt=scene.prompt,
        negative_prompt=scene.negative_prompt,
        guidance_scale=None if scene.seed is None else scene.guidance_scale,
        seed=scene.seed,
        run=run,
        frames_PHWC=given.frames_PHWC,
        latents_FCHW=None if latents_FCHW is None or given.is_bare else latents_FCHW.numpy(),
        join=scene.join,
        colour_map_LC=given.colour_map_LC,
        colour_jump=None if given.record is None else given.record.colour_jump,
        kept=given.record,
    )


def _look_again(given: LoadedScene, latents_FCHW: Tensor, number: int, decoder: SceneDecoder) -> ShownFrames:
    """Show a scene that was there before as it was then, whatever has become of the one before it."""
    map_LC = given.colour_map_LC
    if given.frames_PHWC is not None:
        return ShownFrames(given.frames_PHWC, map_LC)
    frames_PHWC = decoder.decode(latents_FCHW, scene=number)
    return ShownFrames(frames_PHWC if map_LC is None else recolour(frames_PHWC, map_LC), map_LC)


def _made(
    scene: ScenePlan, look: ShownFrames, latents_FCHW: Tensor | None, *, run: int, before: MadeScene | None
) -> MadeScene:
    jump = None
    if before is not None and before.frames_PHWC is not None:
        jump = colour_jump(before.frames_PHWC, look.frames_PHWC, scene.join)
    return MadeScene(
        prompt=scene.prompt,
        negative_prompt=scene.negative_prompt,
        guidance_scale=None if scene.seed is None else scene.guidance_scale,
        seed=scene.seed,
        run=run,
        frames_PHWC=look.frames_PHWC,
        latents_FCHW=None if latents_FCHW is None else latents_FCHW.numpy(),
        join=scene.join,
        colour_map_LC=look.colour_map_LC,
        colour_jump=jump,
    )


def _compare(frames_PHWC: np.ndarray, given: LoadedScene, number: int, clock: Clock) -> None:
    if given.frames_sha256 is not None and frames_digest([frames_PHWC]) != given.frames_sha256:
        clock.reporter.warn(
            f"scene {number + 1} decodes to other frames than it had: other versions, another machine or "
            "another way of decoding made them"
        )
