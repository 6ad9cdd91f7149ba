"""The recipe's `backend:` fields: what runs the model, where, in which precision, and in how much memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from m2d.placement.modes import DecodeName, MemoryName
from m2d.recipe.fields import BackendName, DeviceName, QuantizeName

DtypeName = Literal["float32", "bfloat16", "float16"]
OptionName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")]
OptionValue = bool | int | FiniteFloat | Annotated[str, Field(max_length=200)]
# Films of older versions have no such field.
_UNRECORDED_IF_AUTO = Field(exclude_if=lambda value: value == "auto")


class BackendChoice(BaseModel):
    """The backend that runs the transformer, and its device and precision.

    Attributes:
        device: None is the best device of this machine.
        dtype: None is the data type of the model's weights on a GPU, and float32 on a CPU, but bfloat16 for
            `eager` where the CPU is faster in it.
        memory: Where weights wait while they are not used; it changes no frame.
        quantize: How the transformer's weights are stored: `none`, `fp8`, `int8`, or a GGUF file.
        vae_dtype: What the VAE computes in.
        decode: How much of a scene is decoded at once; only `tiled` changes frames.
        options: Options of this backend by name; the backend rejects those that it does not have.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    name: BackendName = "eager"
    device: DeviceName | None = None
    dtype: DtypeName | None = None
    memory: Annotated[MemoryName, _UNRECORDED_IF_AUTO] = "auto"
    quantize: Annotated[QuantizeName, Field(exclude_if=lambda value: value == "none")] = "none"
    vae_dtype: Annotated[DtypeName, Field(exclude_if=lambda value: value == "float32")] = "float32"
    decode: Annotated[DecodeName, _UNRECORDED_IF_AUTO] = "auto"
    options: Annotated[Mapping[OptionName, OptionValue], Field(max_length=20)] = {}
