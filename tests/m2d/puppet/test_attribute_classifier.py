from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from m2d.errors import CheckpointError
from m2d.puppet.attribute_classifier import AttributeClassifier, load_classifier
from m2d.puppet.labels import PROMPTED_CLASSES, UNPROMPTED_CLASSES

SIZE = {"num_frames": 2, "height": 32, "width": 16}


@pytest.fixture
def reader() -> AttributeClassifier:
    torch.manual_seed(0)
    return AttributeClassifier(**SIZE).eval()


def test_every_property_is_read_from_every_scene(reader: AttributeClassifier) -> None:
    reading = reader.read(torch.rand(5, 2, 3, 32, 16))
    assert reading.classes.keys() == PROMPTED_CLASSES.keys() | UNPROMPTED_CLASSES.keys()
    for name, size in (PROMPTED_CLASSES | UNPROMPTED_CLASSES).items():
        assert reading.classes[name].shape == (5,)
        assert int(reading.classes[name].max()) < size
    assert reading.numbers.shape == (5, 4)


def test_a_scene_is_read_the_same_alone_and_among_others(reader: AttributeClassifier) -> None:
    frames_BPCHW = torch.rand(3, 2, 3, 32, 16)
    alone = reader.read(frames_BPCHW[1:2]).numbers
    # Convolutions of other batch sizes sum in another order: float32 rounding.
    assert torch.allclose(reader.read(frames_BPCHW).numbers[1:2], alone, atol=1e-5)


def test_a_saved_reader_reads_the_same(reader: AttributeClassifier, tmp_path: Path) -> None:
    halves = {
        key: value.half() if value.is_floating_point() else value
        for key, value in reader.state_dict().items()
    }
    save_file(halves, tmp_path / "reader.safetensors")
    loaded = load_classifier(tmp_path / "reader.safetensors", **SIZE)
    assert not loaded.training
    frames_BPCHW = torch.rand(4, 2, 3, 32, 16)
    # Half precision keeps 11 bits of every weight.
    assert torch.allclose(loaded.read(frames_BPCHW).numbers, reader.read(frames_BPCHW).numbers, atol=5e-3)


def test_a_reader_of_another_size_is_refused(reader: AttributeClassifier, tmp_path: Path) -> None:
    save_file(reader.state_dict(), tmp_path / "reader.safetensors")
    with pytest.raises(
        CheckpointError, match=r"reader.safetensors: not an attribute classifier for 9 frames of 64x64"
    ):
        load_classifier(tmp_path / "reader.safetensors", num_frames=9, height=64, width=64)


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_a_missing_or_damaged_reader_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "reader.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r"reader.safetensors: not an attribute classifier for 2 frames of 16x32"
    ):
        load_classifier(path, **SIZE)


def test_a_larger_clip_is_read_like_the_small_one_it_shrinks_to(
    reader: AttributeClassifier, tmp_path: Path
) -> None:
    save_file(reader.state_dict(), tmp_path / "reader.safetensors")
    loaded = load_classifier(tmp_path / "reader.safetensors", num_frames=5, height=96, width=48)
    small_BPCHW = torch.rand(3, 2, 3, 32, 16)
    middle_BPCHW = torch.rand(3, 3, 3, 32, 16)
    # The frames between the first and the last are left out, and every pixel is nine.
    between = torch.cat([small_BPCHW[:, :1], middle_BPCHW, small_BPCHW[:, 1:]], dim=1)
    large_BPCHW = between.repeat_interleave(3, dim=-2).repeat_interleave(3, dim=-1)
    small, large = loaded.read(small_BPCHW), loaded.read(large_BPCHW)
    torch.testing.assert_close(large.numbers, small.numbers)
    assert all(torch.equal(large.classes[name], small.classes[name]) for name in small.classes)


@pytest.mark.parametrize("size", [(2, 32, 32), (2, 16, 8), (1, 32, 16)])
def test_another_shape_a_smaller_clip_and_fewer_frames_are_refused(
    size: tuple[int, int, int], reader: AttributeClassifier, tmp_path: Path
) -> None:
    save_file(reader.state_dict(), tmp_path / "reader.safetensors")
    num_frames, height, width = size
    with pytest.raises(CheckpointError, match="it reads 2 frames of 16x32, and larger clips of that shape"):
        load_classifier(tmp_path / "reader.safetensors", num_frames=num_frames, height=height, width=width)
