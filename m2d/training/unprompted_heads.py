"""Heads that read from the transformer what the scenes of a story share and no prompt names.

They predict it from every video token after half of the blocks, so the tokens of all scenes must agree on it.
The heads are trained with the transformer and are not exported. For what this brings, see `docs/model.md`.
"""

# B batch, S stories, N scenes, V video tokens of all scenes, D width

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from m2d.model.scene_model import SceneModel
from m2d.training.optim import ModelOptimizer
from m2d.training.recipe_parts import OptimizerRecipe

# The error of eyes, an entropy, is larger than that of sizes.
_EYES_WEIGHT = 0.3
_OPTIMIZER = OptimizerRecipe(name="adamw", lr=3e-3, betas=(0.9, 0.99))


class UnpromptedHeads:
    """Linear heads for the actors' size and eyes.

    Attributes:
        module: Their weights.
        optimizer: Their optimizer.
        block: The block whose video tokens they read. It must not be compiled: its hook would not run.
    """

    def __init__(self, model: SceneModel, shared_S2: Tensor) -> None:
        """Add the heads to a model on its device, without changing it.

        Args:
            shared_S2: Size, from 0 to 1, and eyes, 0 or 1, of the actors of every story.
        """
        width = model.config.num_attention_heads * model.config.attention_head_dim
        linear = nn.Linear(width, 2)
        # The same for every seed.
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
        self.module = nn.Sequential(nn.LayerNorm(width), linear).to(model.device)
        self.optimizer = ModelOptimizer(self.module, _OPTIMIZER)
        self._shared_S2 = shared_S2.to(model.device)
        self._tokens_BVD: Tensor | None = None
        self.block = model.transformer_blocks[len(model.transformer_blocks) // 2]
        self.block.register_forward_hook(self._keep)

    def errors(self, stories_BN: Tensor) -> Tensor:
        """Return the heads' errors per sample and scene (B, N), float32, of the model's last forward pass.

        Args:
            stories_BN: Index of every scene's story.
        """
        assert self._tokens_BVD is not None
        tokens_BVD, self._tokens_BVD = self._tokens_BVD, None
        read_BNV2 = self.module(tokens_BVD.float()).unflatten(1, (stories_BN.shape[1], -1))
        shared_BNV2 = self._shared_S2[stories_BN.to(self._shared_S2.device), None].expand_as(read_BNV2)
        size_BNV = (read_BNV2[..., 0] - shared_BNV2[..., 0]).square()
        eyes_BNV = binary_cross_entropy_with_logits(read_BNV2[..., 1], shared_BNV2[..., 1], reduction="none")
        errors_BN: Tensor = (size_BNV + _EYES_WEIGHT * eyes_BNV).mean(2)
        return errors_BN

    def _keep(self, _: nn.Module, __: tuple[Any, ...], text_and_video: tuple[Tensor, Tensor]) -> None:
        self._tokens_BVD = text_and_video[1]
