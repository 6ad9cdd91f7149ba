"""The eager backend: plain PyTorch, the reference every other backend is compared with.

Owns loading a transformer and checking its inputs; the computation is the transformer's own.
"""

# B batch, N scenes, F latent frames, C latent channels, H W latent height and width, L text tokens, D width

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

from m2d.backend import BackendOptions
from m2d.backend_checks import check_inputs, chosen_targets, require_available
from m2d.errors import BackendError, InputError
from m2d.layout import SceneLayout
from m2d.model.execution import Execution, choose_execution
from m2d.placement.modes import MEMORY_MODES, MemoryMode
from m2d_backends.devices import device_problem
from m2d_backends.extra_options import ExtraOptions, parse_extra

if TYPE_CHECKING:
    from torch import Tensor

    from m2d.families.source import ModelSource
    from m2d.model.attention_variants import VariantName
    from m2d.model.context_cache import ContextCache
    from m2d.model.scene_lora import SceneLoras
    from m2d.model.scene_model import SceneModel

logger = logging.getLogger(__name__)


class TableOptions(ExtraOptions):
    """Options of every backend that runs the model's own code.

    Attributes:
        timestep_tables: Keep the adaptive norms' outputs for the run's timesteps in place of their weights.
    """

    timestep_tables: bool = False


class EagerOptions(TableOptions):
    """What `--backend-option` takes.

    Attributes:
        attention: Attention of a comparison method; see `m2d.model.attention_variants`.
    """

    attention: Literal["plain", "prompt-relay", "consistent"] = "plain"


class EagerDenoiser:
    """A loaded transformer bound to one layout and its target scenes."""

    def __init__(
        self,
        transformer: SceneModel,
        layout: SceneLayout,
        targets: tuple[int, ...] | None = None,
        *,
        context: ContextCache | None = None,
        execution: Execution = "joined",
        loras: SceneLoras = (),
        attention: VariantName = "plain",
        home: str | None = None,
    ) -> None:
        """Bind a transformer.

        Args:
            targets: Ascending scene numbers; None for all.
            context: Context that was computed before.
            execution: How the blocks run.
            loras: LoRAs of each scene's own.
            attention: Any but `plain` runs joined and keeps no context.
            home: Device that the whole transformer computes on; None where diffusers moves its parts.
        """
        self.layout = layout
        self.targets = chosen_targets(layout, targets)
        self._transformer = transformer
        self.context = context
        self._execution: Execution = execution
        self.loras = loras
        self._attention: VariantName = attention
        self._home = home

    @property
    def context_bytes(self) -> int:
        """Memory of the kept context; see `m2d.diffusion.denoiser.ContextDenoiser`."""
        return 0 if self.context is None else self.context.size_bytes

    def keep_context(
        self, latents_BFCHW: Tensor, prompt_embeds_BLD: Tensor, *, targets: tuple[int, ...]
    ) -> EagerDenoiser:
        """Compute clean context once; see `m2d.diffusion.denoiser.ContextDenoiser`."""
        import torch

        from m2d.model.context_cache import keep_context

        self._check_loaded()
        if self._attention != "plain":
            return self
        with torch.inference_mode():
            context = keep_context(
                self._transformer,
                latents_BFCHW,
                prompt_embeds_BLD,
                layout=self.layout,
                targets=targets,
                execution=choose_execution(self.layout),
                loras=self.loras,
            )
        return EagerDenoiser(
            self._transformer,
            self.layout,
            targets,
            context=context,
            execution=self._execution,
            loras=self.loras,
            home=self._home,
        )

    def predict(self, latents_BFCHW: Tensor, prompt_embeds_BLD: Tensor, timesteps_BN: Tensor) -> Tensor:
        """Predict the target scenes' velocity; see `m2d.backend.Denoiser`."""
        import torch

        self.check(latents_BFCHW, prompt_embeds_BLD, timesteps_BN)
        targets = None if len(self.targets) == self.layout.num_scenes else self.targets
        with self._varied(int(timesteps_BN.max())), torch.inference_mode():
            return self._transformer(  # type: ignore[no-any-return]  # nn.Module.__call__
                latents_BFCHW,
                prompt_embeds_BLD,
                timesteps_BN,
                layout=self.layout,
                # A cached context already has its targets.
                targets=targets if self.context is None else None,
                context=self.context,
                execution=self._execution,
                loras=self.loras,
            )

    @contextlib.contextmanager
    def _varied(self, timestep: int) -> Iterator[None]:
        """Vary the transformer's attention for one call: other denoisers share the transformer."""
        if self._attention == "plain":
            yield
            return
        from m2d.model.attention_variants import variant_of

        self._transformer.vary_attention(variant_of(self._attention, self.layout, timestep=timestep))
        try:
            yield
        finally:
            self._transformer.vary_attention(None)

    def check(self, latents_BFCHW: Tensor, prompt_embeds_BLD: Tensor, timesteps_BN: Tensor) -> None:
        """Check that `predict` can run these inputs; raises the same errors."""
        self._check_loaded()
        patch_size = int(self._transformer.config.patch_size)
        check_inputs(self.layout, latents_BFCHW, prompt_embeds_BLD, timesteps_BN, patch_size=patch_size)
        if self._transformer.timestep_rows is not None:
            self._transformer.timestep_rows.check(timesteps_BN)

    def _check_loaded(self) -> None:
        import torch

        from m2d.placement.offload import is_empty

        if is_empty(self._transformer):
            raise BackendError("the weights of this denoiser were released; prepare another one")
        if self._home is not None and self._transformer.device.type != torch.device(self._home).type:
            # It waited in the CPU's memory.
            torch.nn.Module.to(self._transformer, self._home)


class EagerBackend:
    """Runs the transformer in plain PyTorch, on a CPU or a CUDA device."""

    name: ClassVar[str] = "eager"
    memory_modes: ClassVar[tuple[MemoryMode, ...]] = MEMORY_MODES
    can_quantize: ClassVar[bool] = True

    def __init__(self) -> None:
        """Start with nothing loaded."""
        self._key: tuple[object, ...] | None = None
        self._transformer: SceneModel | None = None

    def unavailable_reason(self, device: str | None = None) -> str | None:
        """Say why eager cannot work here, or on `device`; see `m2d.backend.Backend`."""
        for package in ("torch", "diffusers"):
            if importlib.util.find_spec(package) is None:
                return f"the package {package} is not installed"
        return None if device is None else device_problem(device)

    def prepare(self, source: ModelSource, layout: SceneLayout, options: BackendOptions) -> EagerDenoiser:
        """Load the transformer, or reuse the one already loaded for this model, device and dtype."""
        require_available(self, options.device)
        transformer = self.load(source, options)
        from m2d.model.scene_lora import loras_by_scene
        from m2d.placement.offload import waits_on_cpu

        attention = parse_extra(self.name, EagerOptions, options.extra).attention
        execution: Execution = choose_execution(layout) if attention == "plain" else "joined"
        if attention != "plain":
            _check_mask(attention, layout)
        logger.info("eager: blocks run %s", execution)
        loras = loras_by_scene(options.loras, layout.num_scenes)
        home = None if waits_on_cpu(options.memory) else options.device
        return EagerDenoiser(
            transformer,
            layout,
            options.targets,
            execution=execution,
            loras=loras,
            attention=attention,
            home=home,
        )

    def park(self) -> None:
        """Let the transformer wait in the CPU's memory until its next call; see `m2d.backend.Backend`."""
        import torch

        if self._transformer is not None:
            torch.nn.Module.to(self._transformer, "cpu")
            torch.cuda.empty_cache()

    def release(self) -> None:
        """Empty the loaded transformer; see `m2d.backend.Backend`."""
        import torch

        from m2d.placement.offload import empty

        if self._transformer is not None:
            # Denoisers reference it, too: only moving the weights away frees their memory for certain.
            empty(self._transformer)
        self._transformer = self._key = None
        torch.cuda.empty_cache()

    def wrap(self, model: SceneModel) -> SceneModel:
        """Return the model itself: eager training needs no preparation."""
        return model

    def load(self, source: ModelSource, options: BackendOptions) -> SceneModel:
        """Load the transformer, or return the one loaded for this model, device, dtype, tables and LoRAs.

        Models are compared by digest, not by path: the files at a path can change.
        """
        import torch

        from m2d.families.loading import load_transformer
        from m2d.model.kernels import choose_kernel
        from m2d.model.timestep_tables import held_bytes, use_timestep_tables
        from m2d.placement.offload import offload, waits_on_cpu
        from m2d.placement.quantize import quantize

        timesteps = self._table_timesteps(options)
        # Windows differ in the scenes that a LoRA holds for; its matrices stay the same.
        loras = tuple((use.file.sha256, use.scale, use.scenes is None) for use in options.loras)
        stored = None if options.quantized is None else options.quantized.identity
        key = (source.digest, options.device, options.dtype, timesteps, loras, stored, options.memory)
        if self._transformer is None or key != self._key:
            # Drop the old one first: two 5B transformers do not fit where one does.
            self._transformer = self._key = None
            dtype: torch.dtype = getattr(torch, options.dtype)
            # Quantizing needs room for both forms of the weights.
            waits = waits_on_cpu(options.memory) or options.quantized is not None
            first = "cpu" if waits else options.device
            transformer = load_transformer(source, device=first, dtype=dtype, loras=options.loras)
            self._transformer = transformer.eval().requires_grad_(False)
            if options.quantized is not None:
                quantize(transformer, options.quantized, dtype=dtype)
                logger.info("eager: weights in %s", options.quantized.kind)
            device, head_dim = torch.device(options.device), transformer.config.attention_head_dim
            kernel = choose_kernel(device, dtype, head_dim)
            if kernel is not None:
                transformer.pin_attention_kernel(kernel)
            self._key = key
            logger.info("eager: %s on %s in %s", source.name, options.device, options.dtype)
            for use in options.loras:
                logger.info("eager: LoRA %s at %g", use.file.path.name, use.scale)
            logger.info("eager: attention by %s", "torch's choice" if kernel is None else kernel.name)
            if timesteps is not None:
                freed = use_timestep_tables(transformer, timesteps)
                logger.info(
                    "eager: tables of %d timesteps in place of weights: %.1f MB less, %.1f MB are left",
                    len(timesteps),
                    freed / 1e6,
                    held_bytes(transformer) / 1e6,
                )
            if waits and not waits_on_cpu(options.memory):
                torch.nn.Module.to(transformer, options.device)
            offload(transformer, options.memory, options.device)
        return self._transformer

    def _table_timesteps(self, options: BackendOptions) -> tuple[int, ...] | None:
        """Return the timesteps to keep tables of; None keeps the weights."""
        if not parse_extra(self.name, EagerOptions, options.extra).timestep_tables:
            return None
        if options.timesteps is None:
            raise InputError(
                f"backend {self.name!r}: timestep_tables: the timesteps of the run are not known here; use "
                "it for making films, or set BackendOptions.timesteps"
            )
        return tuple(sorted({0, *options.timesteps}))


def _check_mask(attention: VariantName, layout: SceneLayout) -> None:
    from m2d.model.attention_variants import MASK_OF

    if layout.mask != MASK_OF[attention]:
        raise InputError(
            f"backend 'eager': attention={attention}: it is defined for the mask {MASK_OF[attention]}, and"
            f" the recipe has {layout.mask}"
        )
