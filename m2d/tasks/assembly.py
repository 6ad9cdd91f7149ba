"""Assembly: from latents to a film's scenes as they are written: decoded, matched in colour, measured.

Owns the order (a scene is matched to the one before it as that is shown) and which frames are not decoded
because they are there. P frames, F latent frames, C channels, H W height and width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from m2d.errors import Interrupted
from m2d.model.decoding import SceneDecoder
from m2d.recipe.plan import ScenePlan
from m2d.stop import StopRequest
from m2d.tasks.clock import Clock
from m2d.tasks.film import LoadedFilm, LoadedScene
from m2d.video.joining import colour_jump, colour_map, recolour
from m2d.video.provenance import MadeScene, frames_digest


class Assembled(NamedTuple):
    """All scenes of a film, and whether some were decoded in tiles, which gives other frames."""

    scenes: tuple[MadeScene, ...]
    is_tiled: bool


class _Look(NamedTuple):
    """A scene's frames as they are shown, and what its colours were sent through."""

    frames_PHWC: np.ndarray
    colour_map_LC: np.ndarray | None


def assemble(
    scenes: Sequence[ScenePlan],
    latents: Mapping[int, Tensor],
    *,
    runs: Sequence[int],
    film: LoadedFilm | None,
    decoder: SceneDecoder,
    clock: Clock,
    stop: StopRequest,
) -> Assembled:
    """Decode all scenes of a film.

    Args:
        scenes: All of them.
        latents: Latents FCHW of each.
        runs: Index of the run that made each.
        film: The film that was gone on from: what its frames were, and those that no latents give.
        decoder: Decodes one scene.
        clock: Is told of the stage, and warned when a scene does not come out as it was.
        stop: A stop is obeyed between scenes.

    Raises:
        Interrupted: A signal came.
        DecodingError: There is too little memory.
    """
    given = film.scenes if film is not None else ()
    made: list[MadeScene] = []
    is_tiled = False
    with clock.stage("decode", total=len(scenes)) as progress:
        for number, scene in enumerate(scenes):
            if stop.reason:
                raise Interrupted(f"{stop.reason}: all scenes are denoised; go on with --resume")
            if number < len(given) and given[number].run == runs[number]:
                look = _look_again(given[number], latents[number], number, decoder)
                _compare(look.frames_PHWC, given[number], number, clock)
            else:
                before_PHWC = made[-1].frames_PHWC if made and scene.match_colour else None
                look = _first_look(latents[number], number, decoder, before_PHWC=before_PHWC)
            is_tiled = is_tiled or decoder.rung == "tiled"
            before = made[-1] if made else None
            made.append(_made(scene, look, latents[number], run=runs[number], before=before))
            progress.advance()
    return Assembled(tuple(made), is_tiled)


def _first_look(
    latents_FCHW: Tensor, number: int, decoder: SceneDecoder, *, before_PHWC: np.ndarray | None
) -> _Look:
    """Decode a new scene, and match it to the one before it if that is given."""
    frames_PHWC = decoder.decode(latents_FCHW, scene=number)
    if before_PHWC is None:
        return _Look(frames_PHWC, None)
    map_LC = colour_map(frames_PHWC, before_PHWC)
    return _Look(recolour(frames_PHWC, map_LC), map_LC)


def _look_again(given: LoadedScene, latents_FCHW: Tensor, number: int, decoder: SceneDecoder) -> _Look:
    """Show a scene that was there before as it was then, whatever has become of the one before it."""
    map_LC = given.colour_map_LC
    if given.frames_PHWC is not None:
        return _Look(given.frames_PHWC, map_LC)
    frames_PHWC = decoder.decode(latents_FCHW, scene=number)
    return _Look(frames_PHWC if map_LC is None else recolour(frames_PHWC, map_LC), map_LC)


def _made(
    scene: ScenePlan, look: _Look, latents_FCHW: Tensor, *, run: int, before: MadeScene | None
) -> MadeScene:
    return MadeScene(
        prompt=scene.prompt,
        negative_prompt=scene.negative_prompt,
        guidance_scale=None if scene.seed is None else scene.guidance_scale,
        seed=scene.seed,
        run=run,
        frames_PHWC=look.frames_PHWC,
        latents_FCHW=latents_FCHW.numpy(),
        join=scene.join,
        colour_map_LC=look.colour_map_LC,
        colour_jump=None if before is None else colour_jump(before.frames_PHWC, look.frames_PHWC),
    )


def _compare(frames_PHWC: np.ndarray, given: LoadedScene, number: int, clock: Clock) -> None:
    if given.frames_sha256 is not None and frames_digest([frames_PHWC]) != given.frames_sha256:
        clock.reporter.warn(
            f"scene {number + 1} decodes to other frames than it had: other versions, another machine or "
            "another way of decoding made them"
        )
