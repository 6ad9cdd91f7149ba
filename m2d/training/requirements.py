"""Requirements of a training: parameters, memory per device, tokens and operations per step.

Owns the accounting. The transformer is built and run on fake tensors, which have sizes but no storage, so a
5B model is measured in seconds on any machine.
"""

# B batch (samples of one micro-batch), F latent frames of all scenes, C latent channels, H W latent size,
# N scenes, L text tokens, D text width

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from m2d.families.registry import NEW_MODELS
from m2d.garbage import no_collection
from m2d.layout import SceneLayout
from m2d.model.lora import add_lora
from m2d.model.scene_model import SceneModel
from m2d.training.launcher import Sharing
from m2d.training.optim import is_block_matrix
from m2d.training.recipe_parts import LoraRecipe

OptimizerKind = Literal["adamw", "adamw8bit", "muon"]

FLOAT32_BYTES, BFLOAT16_BYTES = 4, 2
# One forward pass and twice as much backward: the gradient of a product is two products.
_ATTENTION_PASSES = 3
# Adam keeps two numbers per weight, in 32 or 8 bits (plus a scale per 256 numbers). Muon keeps one number for
# each weight of a block's matrices; Adam updates the other weights.
_ADAM_BYTES: Mapping[OptimizerKind, float] = {"adamw": 8.0, "adamw8bit": 2.0 + 8 / 256, "muon": 8.0}
_MUON_BYTES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """One micro-batch on one device.

    Attributes:
        config: The transformer's diffusers config.
        latent_shape: (C, H, W) of a latent frame.
        is_mixed: Whether products are computed in bfloat16.
        lora: Adapters to train instead of the weights.
    """

    config: Mapping[str, Any]
    layout: SceneLayout
    latent_shape: tuple[int, int, int]
    batch_size: int
    is_mixed: bool
    lora: LoraRecipe | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelNeeds:
    """Requirements of the model for one micro-batch.

    Attributes:
        num_parameters: Number of weights, including adapters.
        num_in_matrices: Number of trained weights in the blocks' attention and feed-forward matrices.
        tokens: Text and video tokens.
        flops: Floating-point operations, forward and backward; a multiplication and an addition count as two,
            and recomputation under gradient checkpointing is not included.
        block_bytes: Size of the activations that one block keeps for the backward pass.
        boundary_bytes: Size of the tokens between two blocks, which checkpointing keeps instead.
        outside_bytes: Size of the activations outside of the blocks, minus those that the first block need
            not keep if the weights before it are frozen.
    """

    num_parameters: int
    num_trained: int
    num_in_matrices: int
    tokens: int
    flops: int
    block_bytes: int
    boundary_bytes: int
    outside_bytes: int
    num_blocks: int

    def activation_bytes(self, *, is_checkpointed: bool) -> int:
        """Peak size of the kept activations; checkpointing recomputes one block at a time."""
        if is_checkpointed:
            return self.outside_bytes + self.num_blocks * self.boundary_bytes + self.block_bytes
        return self.outside_bytes + self.num_blocks * self.block_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceMemory:
    """Bytes on one device, without those of the allocator, the kernels and the VAE.

    `gradients` and `average` are of the trained weights, `activations` are those kept for the backward pass.
    """

    weights: int
    gradients: int
    optimizer: int
    average: int
    activations: int

    @property
    def total(self) -> int:
        """Total bytes."""
        return self.weights + self.gradients + self.optimizer + self.average + self.activations


@no_collection()
def measure_needs(work: Workload) -> ModelNeeds:
    """Build the transformer without storage and run it forward and backward.

    Models of two and three blocks are run; all blocks but the first are alike, so the rest is extrapolated.
    """
    two, three = (_trace(work, num_blocks=count) for count in (2, 3))
    num_blocks = int(work.config["num_layers"])
    all_blocks = _Trace(
        *(few + (num_blocks - 2) * (more - few) for few, more in zip(two, three, strict=True))
    )
    attention_flops = _ATTENTION_PASSES * num_blocks * attention_flops_per_block(work)
    tokens = work.layout.num_tokens * work.batch_size
    block_bytes = three.kept_bytes - two.kept_bytes
    return ModelNeeds(
        num_parameters=all_blocks.num_parameters,
        num_trained=all_blocks.num_trained,
        num_in_matrices=all_blocks.num_in_matrices,
        tokens=tokens,
        flops=all_blocks.matrix_flops + attention_flops,
        block_bytes=block_bytes,
        boundary_bytes=tokens * _width(work) * (BFLOAT16_BYTES if work.is_mixed else FLOAT32_BYTES),
        outside_bytes=two.kept_bytes - 2 * block_bytes,
        num_blocks=num_blocks,
    )


def attention_flops_per_block(work: Workload) -> int:
    """Forward operations of one block's attention: 2 x 2 per allowed query-key pair and channel."""
    pairs = sum(sum(map(len, call.queries)) * sum(map(len, call.keys)) for call in work.layout.plan())
    return 4 * pairs * _width(work) * work.batch_size


def memory_per_device(
    needs: ModelNeeds,
    *,
    optimizer: OptimizerKind,
    strategy: Sharing,
    num_devices: int,
    is_checkpointed: bool,
    frozen_bytes_per_weight: int = FLOAT32_BYTES,
) -> DeviceMemory:
    """Return the memory of each device.

    Args:
        strategy: ZeRO-2 shards gradients and the optimizer's state and copies its share of the weights;
            ZeRO-3 and FSDP2 also shard weights and average.
    """
    num_by_muon = needs.num_in_matrices if optimizer == "muon" else 0
    num_by_adam = needs.num_trained - num_by_muon
    state_bytes = int(num_by_adam * _ADAM_BYTES[optimizer]) + num_by_muon * _MUON_BYTES
    by_weights = num_devices if strategy in ("zero3", "fsdp2") else 1
    by_gradients = num_devices if strategy == "zero2" else by_weights
    frozen = needs.num_parameters - needs.num_trained
    weights = needs.num_trained * FLOAT32_BYTES + frozen * frozen_bytes_per_weight
    copied = needs.num_trained * FLOAT32_BYTES if strategy == "zero2" else 0
    return DeviceMemory(
        weights=-(-weights // by_weights) - (-copied // num_devices),
        gradients=-(-needs.num_trained * FLOAT32_BYTES // by_gradients),
        optimizer=-(-state_bytes // by_gradients),
        average=-(-needs.num_trained * FLOAT32_BYTES // by_weights),
        activations=needs.activation_bytes(is_checkpointed=is_checkpointed),
    )


class _Trace(NamedTuple):
    num_parameters: int
    num_trained: int
    num_in_matrices: int
    matrix_flops: int
    kept_bytes: int


def _trace(work: Workload, *, num_blocks: int) -> _Trace:
    model = _build(work, num_blocks=num_blocks)
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    # Each storage that autograd keeps once. The tensors are held, because a freed storage would pass its
    # address to the next one.
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[_address(tensor)] = tensor
        return tensor

    with FakeTensorMode():
        _pretend_on_cpu(model)
        own = {_address(weight) for weight in model.parameters()}
        counter = FlopCounterMode(display=False)
        mixed = torch.autocast("cpu", torch.bfloat16) if work.is_mixed else nullcontext()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), counter:
            with mixed:
                loss = model(*_inputs(work), layout=work.layout).square().mean()
            loss.backward()
        flops = counter.get_flop_counts()["Global"]
    return _Trace(
        num_parameters=sum(weight.numel() for weight in model.parameters()),
        num_trained=sum(weight.numel() for weight in trained.values()),
        num_in_matrices=sum(
            weight.numel() for name, weight in trained.items() if is_block_matrix(name, weight)
        ),
        matrix_flops=sum(count for op, count in flops.items() if "attention" not in str(op)),
        kept_bytes=sum(
            tensor.untyped_storage().nbytes() for address, tensor in kept.items() if address not in own
        ),
    )


def _build(work: Workload, *, num_blocks: int) -> SceneModel:
    """Build the transformer on the meta device, where weights have no storage."""
    with torch.device("meta"):
        model = NEW_MODELS.build_transformer(**{**work.config, "num_layers": num_blocks})
        if work.lora is not None:
            add_lora(model, work.lora)
    model.train()
    return model


def _pretend_on_cpu(model: nn.Module) -> None:
    """Replace weights and buffers by fake CPU tensors: autocast and fused attention skip meta tensors."""
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            fake = nn.Parameter(torch.empty(weight.shape), requires_grad=weight.requires_grad)
            module.register_parameter(name, fake)
        for name, values in module.named_buffers(recurse=False):
            module.register_buffer(name, torch.empty(values.shape, dtype=values.dtype))


def _inputs(work: Workload) -> tuple[Tensor, Tensor, Tensor]:
    layout = work.layout
    latents_BFCHW = torch.empty(work.batch_size, sum(layout.latent_frames), *work.latent_shape)
    embeds_BLD = torch.empty(work.batch_size, layout.num_text_tokens, int(work.config["text_embed_dim"]))
    timesteps_BN = torch.zeros(work.batch_size, layout.num_scenes, dtype=torch.int64)
    return latents_BFCHW, embeds_BLD, timesteps_BN


def _width(work: Workload) -> int:
    return int(work.config["num_attention_heads"]) * int(work.config["attention_head_dim"])


def _address(tensor: Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address
