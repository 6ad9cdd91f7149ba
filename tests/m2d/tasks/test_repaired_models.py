"""A run is resumed with a model that denoises alike, wherever it lies and whatever its VAE is."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from m2d.errors import InputError, Interrupted
from m2d.families.source import ModelSource, resolve_model
from m2d.film.journal_folder import DENOISER, HEADER, journal_folder_of, read_document, write_document
from tests.m2d.tasks.studio import Stopping, Studio, frames_of, open_studio

RESUME = {"resume": True}
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return open_studio(tmp_path_factory.mktemp("studio"))


def changed(studio: Studio, part: str) -> ModelSource:
    """The model in another folder, one of its parts with other weights."""
    folder = Path(shutil.copytree(studio.source.path, studio.folder / f"other {part}", dirs_exist_ok=True))
    stored = load_file(studio.source.path / part / WEIGHTS)
    save_file({name: tensor * 0.9 for name, tensor in stored.items()}, folder / part / WEIGHTS)
    return resolve_model(str(folder))


def stopped_in_decoding(studio: Studio, name: str, **story: Any) -> None:
    with pytest.raises(Interrupted):
        studio.generate(2, name=name, reporter=Stopping(stage_to_stop="decode", after=1), **story)


def test_a_mended_vae_in_another_folder_decodes_what_was_denoised(studio: Studio) -> None:
    stopped_in_decoding(studio, "film")
    mended = replace(studio, source=changed(studio, "vae"))
    reporter = Stopping()
    result = mended.generate(2, name="film", options=RESUME, reporter=reporter)
    assert "denoise" not in reporter.done
    assert frames_of(result.provenance) == frames_of(mended.generate(2, name="straight").provenance)
    (run,) = result.provenance.runs
    assert run.model is not None
    assert run.model.digest == mended.source.digest


def test_what_took_part_in_denoising_may_not_change(studio: Studio) -> None:
    stopped_in_decoding(studio, "other weights")
    other = replace(studio, source=changed(studio, "transformer"))
    with pytest.raises(InputError, match=r"another request: model was .* and is .other transformer"):
        other.generate(2, name="other weights", options=RESUME)
    config = other.source.path / "scheduler" / "scheduler_config.json"
    shutil.copy(studio.source.path / "transformer" / WEIGHTS, other.source.path / "transformer" / WEIGHTS)
    config.write_text(json.dumps(json.loads(config.read_text()) | {"beta_end": 0.02}))
    rescheduled = replace(studio, source=resolve_model(str(other.source.path)))
    with pytest.raises(InputError, match="another request: model was"):
        rescheduled.generate(2, name="other weights", options=RESUME)
    # A scene that continues another one starts from a decoded frame.
    continued = {"scenes": ("a red ball", {"prompt": "a blue ball", "join": "continue"})}
    stopped_in_decoding(studio, "continued", **continued)
    with pytest.raises(InputError, match="another request: model was"):
        replace(studio, source=changed(studio, "vae")).generate(
            2, name="continued", options=RESUME, **continued
        )


def test_a_run_of_an_earlier_version_is_resumed_with_the_same_model_only(studio: Studio) -> None:
    stopped_in_decoding(studio, "earlier")
    header = journal_folder_of(studio.path("earlier")) / HEADER
    document = read_document(header)
    del document["request"]["runs"][0][DENOISER]
    write_document(header, document)
    with pytest.raises(InputError, match="another request: model was"):
        replace(studio, source=changed(studio, "vae")).generate(2, name="earlier", options=RESUME)
    assert studio.generate(2, name="earlier", options=RESUME).film.is_file()


@pytest.mark.parametrize("num_scenes", [2, 4])
def test_a_run_of_a_version_that_knew_no_context_is_resumed_if_it_sees_the_same(
    studio: Studio, num_scenes: int
) -> None:
    name = f"older {num_scenes}"
    with pytest.raises(Interrupted):
        studio.generate(num_scenes, name=name, reporter=Stopping(stage_to_stop="decode", after=1))
    folder = journal_folder_of(studio.path(name))
    document = read_document(folder / HEADER)
    run = document["request"]["runs"][0]
    del run["recipe"]["context"]
    if num_scenes == 4:
        # Its fourth scene saw the two before it.
        run["windows"][1]["scenes"] = [1, 2, 3]
    write_document(folder / HEADER, document)
    if num_scenes == 2:
        studio.generate(num_scenes, name=name, options=RESUME)
        return
    with pytest.raises(InputError, match=r'another request: context was "recent" and is "first"'):
        studio.generate(num_scenes, name=name, options=RESUME)
