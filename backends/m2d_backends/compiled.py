"""The compile backend: the eager model through torch.compile, with every size of a layout static.

Owns what is compiled, the folder of compiled code and the time it took. The computation is the eager
backend's; on a CPU, oneDNN runs the linear layers. Nothing falls back: a graph break is an error.
"""

# B batch, N scenes, F latent frames, C latent channels, H W latent height and width, L text tokens, D width

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from m2d.backend import BackendOptions
from m2d.backend_checks import check_memory, require_available
from m2d.cache_root import cache_root
from m2d.errors import BackendError
from m2d.layout import SceneLayout
from m2d.placement.modes import MemoryMode
from m2d_backends.eager import EagerBackend, EagerDenoiser, TableOptions
from m2d_backends.extra_options import parse_extra
from m2d_backends.onednn import can_use_onednn, compile_with_onednn
from m2d_backends.trust import private_folder

if TYPE_CHECKING:
    from torch import Tensor, nn

    from m2d.families.source import ModelSource
    from m2d.model.scene_model import SceneModel

logger = logging.getLogger(__name__)

_CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
# A block is compiled once for every plan it runs: two for each layout. A long story has many windows.
_MAX_PLANS = 256


class CompileOptions(TableOptions):
    """What `--backend-option` takes.

    Attributes:
        scope: `blocks` compiles one block and runs all with it: seconds. `whole` compiles the whole graph
            with the layout baked in: longer, and fused across blocks.
    """

    scope: Literal["blocks", "whole"] = "blocks"


class CompiledDenoiser:
    """A compiled transformer bound to one layout and its target scenes; see `m2d.backend.Denoiser`."""

    def __init__(
        self, eager: EagerDenoiser, transformer: SceneModel, *, scope: Literal["blocks", "whole"]
    ) -> None:
        """Bind `transformer`, whose blocks are compiled already when the scope is `blocks`."""
        self.layout = eager.layout
        self.targets = eager.targets
        self.compile_s: float | None = None
        self._eager = eager
        self._transformer = transformer
        self._scope: Literal["blocks", "whole"] = scope
        self._whole: dict[tuple[int, ...], nn.Module] = {}

    def predict(self, latents_BFCHW: Tensor, prompt_embeds_BLD: Tensor, timesteps_BN: Tensor) -> Tensor:
        """Predict the target scenes' velocity; the first call compiles."""
        import torch

        self._eager.check(latents_BFCHW, prompt_embeds_BLD, timesteps_BN)
        began_s = time.monotonic()
        with compiling(), torch.inference_mode():
            run = self._whole_for(latents_BFCHW) if self._scope == "whole" else self._eager.predict
            # Contiguous: an expanded batch would be another, slower, graph.
            velocity: Tensor = run(
                latents_BFCHW.contiguous(), prompt_embeds_BLD.contiguous(), timesteps_BN.contiguous()
            )
        if self.compile_s is None:
            self.compile_s = time.monotonic() - began_s
            logger.info("compile: compiled once in %.1f s, kept in %s", self.compile_s, compile_cache())
        return velocity

    @property
    def context_bytes(self) -> int:
        """Memory of the cached context; see `m2d.diffusion.denoiser.ContextDenoiser`."""
        return self._eager.context_bytes

    def keep_context(
        self, latents_BFCHW: Tensor, prompt_embeds_BLD: Tensor, *, targets: tuple[int, ...]
    ) -> CompiledDenoiser:
        """Compute clean context once; see `m2d.diffusion.denoiser.ContextDenoiser`."""
        import torch

        # Run once and uncompiled: compiling takes longer than running it.
        with torch.compiler.set_stance("force_eager"):
            kept = self._eager.keep_context(latents_BFCHW, prompt_embeds_BLD, targets=targets)
        return CompiledDenoiser(kept, self._transformer, scope=self._scope)

    def _whole_for(self, latents_BFCHW: Tensor) -> nn.Module:
        import torch

        from m2d_backends.baked import BakedTransformer

        frames, channels, height, width = shape = tuple(latents_BFCHW.shape[1:])
        if shape not in self._whole:
            baked = BakedTransformer(
                self._transformer,
                self.layout,
                latent_shape=(frames, channels, height, width),
                targets=self.targets,
                context=self._eager.context,
                loras=self._eager.loras,
            )
            compiled: nn.Module = torch.compile(  # type: ignore[assignment]  # typed as a plain callable
                baked.eval(), fullgraph=True, dynamic=False, backend=_compiler(self._transformer)
            )
            self._whole[shape] = compiled
        return self._whole[shape]


class CompileBackend:
    """Runs the transformer through torch.compile, for inference and training."""

    name: ClassVar[str] = "compile"
    # Hooks between the blocks would break its graphs.
    memory_modes: ClassVar[tuple[MemoryMode, ...]] = ("full", "model-offload")

    def __init__(self) -> None:
        """Start with nothing loaded."""
        self._eager = EagerBackend()
        self._compiled: SceneModel | None = None

    def unavailable_reason(self, device: str | None = None) -> str | None:
        """Say why compiling cannot work here, or on `device`; see `m2d.backend.Backend`."""
        return self._eager.unavailable_reason(device) or compiler_problem(device or "cpu")

    def prepare(self, source: ModelSource, layout: SceneLayout, options: BackendOptions) -> CompiledDenoiser:
        """Load the transformer; the first prediction compiles it."""
        scope = parse_extra(self.name, CompileOptions, options.extra).scope
        require_available(self, options.device)
        check_memory(self, memory=options.memory, quantized=options.quantized)
        options = replace(options, extra={name: of for name, of in options.extra.items() if name != "scope"})
        denoiser = self._eager.prepare(source, layout, options)
        transformer = self._eager.load(source, options)
        if scope == "blocks" and transformer is not self._compiled:
            compile_blocks(transformer)
            self._compiled = transformer
        return CompiledDenoiser(denoiser, transformer, scope=scope)

    def park(self) -> None:
        """Let the transformer wait in the CPU's memory; see `m2d.backend.Backend`."""
        self._eager.park()

    def release(self) -> None:
        """Empty the loaded transformer; see `m2d.backend.Backend`. Compiled code stays on disk."""
        self._compiled = None
        self._eager.release()

    def wrap(self, model: SceneModel) -> SceneModel:
        """Compile the model's blocks in place; gradients flow through them.

        Raises this process's limit of compiled plans to that of `compiling`: training has many layouts, and
        torch stops after eight.
        """
        import torch._dynamo

        torch._dynamo.config.recompile_limit = _MAX_PLANS
        torch._dynamo.config.accumulated_recompile_limit = 4 * _MAX_PLANS
        model.compile_repeated_blocks(fullgraph=True, dynamic=False)
        return model


def compile_blocks(transformer: SceneModel) -> None:
    """Compile a transformer's blocks in place, for inference; the first call with each plan compiles."""
    transformer.compile_repeated_blocks(fullgraph=True, dynamic=False, backend=_compiler(transformer))


def _compiler(transformer: SceneModel) -> str | Callable[..., Any]:
    """Return the compiler that torch.compile passes the traced graph to."""
    return compile_with_onednn if can_use_onednn(transformer.device.type) else "inductor"


def compiler_problem(device: str) -> str | None:
    """Say what is missing to compile for a device, or None."""
    if device.startswith("cuda") and importlib.util.find_spec("triton") is None:
        return "the package triton is not installed, which compiles for CUDA"
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++", "cl"]
    if any(shutil.which(name) for name in names):
        return None
    return (
        f"no C++ compiler is found (looked for {', '.join(names)}); install one, such as Debian's "
        "package g++, or name yours in CXX"
    )


def compile_cache() -> str:
    """Return the folder of compiled code: the one that torch's variable names, or one in m2d's cache.

    Raises:
        ArtifactRefused: Others may write to the folder, which holds native code.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    named = os.environ.get(_CACHE_VARIABLE)
    # Importing torch's compiler sets the variable to a folder in /tmp whose name anyone can guess.
    if named and Path(named) != Path(default_cache_dir()).absolute():
        return str(private_folder(Path(named)))
    private_folder(cache_root())
    return str(private_folder(cache_root() / "inductor"))


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """Compile into m2d's cache within the block, for as many layouts as a story has.

    Raises:
        BackendError: The model cannot be compiled in one graph.
    """
    import torch
    import torch._dynamo

    before = os.environ.get(_CACHE_VARIABLE)
    os.environ[_CACHE_VARIABLE] = compile_cache()
    try:
        with torch._dynamo.config.patch(
            recompile_limit=_MAX_PLANS, accumulated_recompile_limit=4 * _MAX_PLANS
        ):
            yield
    except torch._dynamo.exc.TorchDynamoException as error:
        first_line = str(error).strip().splitlines()[0]
        raise BackendError(f"backend 'compile': torch cannot compile this model: {first_line}") from error
    finally:
        if before is None:
            del os.environ[_CACHE_VARIABLE]
        else:
            os.environ[_CACHE_VARIABLE] = before
