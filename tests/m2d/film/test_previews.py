"""A preview shows how every scene begins, and decodes no more than that."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from m2d.errors import OutputError, Remedy
from m2d.families.cogvideox.vae import CogVideoXVae
from m2d.film.previews import save_preview
from m2d.layout import SceneLayout
from m2d.pipeline.decoding import DecodingError
from tests.m2d.model.tiny_model import tiny_codec

LAYOUT = SceneLayout.build("mask2dit", text_tokens=(2, 2, 2), latent_frames=(2, 3, 1), tokens_per_frame=16)
STARTS = [0, 2, 5]
X0 = torch.randn(1, 6, 4, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def codec() -> Any:
    return CogVideoXVae(tiny_codec())


def picture_of(path: Path) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(path.read_bytes())))


def test_the_first_frames_of_all_scenes_stand_side_by_side(tmp_path: Path, codec: Any) -> None:
    path = save_preview(tmp_path, X0, LAYOUT, codec, step=10, total=50, scene_numbers=(4, 5, 6))
    assert path == tmp_path / "step-0010.png"
    picture = picture_of(path)
    # 32 pixels are drawn twelvefold, 12 apart, below 76 rows of text; the corners are rounded.
    for place, start in enumerate(STARTS):
        first = Image.fromarray(codec.decode(X0[0, start : start + 1])[0])
        expected = np.asarray(first.resize((384, 384), Image.Resampling.LANCZOS))
        left = 20 + place * (384 + 12)
        shown = picture[76 : 76 + 384, left : left + 384]
        np.testing.assert_array_equal(shown[8:-8], expected[8:-8])


def test_steps_and_scenes_are_told_apart_and_the_same_preview_has_the_same_bytes(
    tmp_path: Path, codec: Any
) -> None:
    def bytes_of(**changes: Any) -> bytes:
        settings: dict[str, Any] = {"step": 10, "total": 50, "scene_numbers": (0, 1, 2)}
        return save_preview(tmp_path, X0, LAYOUT, codec, **(settings | changes)).read_bytes()

    pictures = [bytes_of(), bytes_of(step=20), bytes_of(total=60), bytes_of(scene_numbers=(0, 1, 3))]
    assert len(set(pictures)) == 4
    assert bytes_of() == pictures[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-0010.png", "step-0020.png"]


def test_one_latent_frame_per_scene_is_decoded(tmp_path: Path, codec: Any) -> None:
    decoded: list[int] = []
    counting = codec.module.decoder.register_forward_pre_hook(
        lambda module, inputs: decoded.append(inputs[0].shape[2])  # noqa: ARG005 - torch names the arguments
    )
    save_preview(tmp_path / "new" / "previews", X0, LAYOUT, codec, step=1, total=2, scene_numbers=(0, 1, 2))
    counting.remove()
    assert decoded == [1, 1, 1]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_a_lack_of_memory_says_how_to_go_on(tmp_path: Path, codec: Any, error: Exception) -> None:
    def refuse(module: Any, inputs: Any) -> None:
        del module, inputs
        raise error

    refusal = codec.module.decoder.register_forward_pre_hook(refuse)
    with pytest.raises(
        DecodingError,
        match="step 3 ran out of memory",
        check=lambda error: error.remedy is Remedy.RESUME_WITHOUT_PREVIEWS,
    ):
        save_preview(tmp_path, X0, LAYOUT, codec, step=3, total=4, scene_numbers=(0, 1, 2))
    refusal.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, codec: Any) -> None:
    (tmp_path / "previews").write_text("mine")
    with pytest.raises(OutputError, match="previews: a folder is needed there, but a file has its name"):
        save_preview(tmp_path / "previews", X0, LAYOUT, codec, step=1, total=2, scene_numbers=(0, 1, 2))


def test_every_scene_needs_its_number(tmp_path: Path, codec: Any) -> None:
    with pytest.raises(ValueError, match="scene_numbers is for 2 scenes, the layout has 3"):
        save_preview(tmp_path, X0, LAYOUT, codec, step=1, total=2, scene_numbers=(0, 1))
