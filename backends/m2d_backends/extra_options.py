"""A backend's own options: `name: value` texts from a recipe or a command line, checked against a model.

Owns the message for an unknown option; each backend declares its options.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from m2d.errors import InputError


class ExtraOptions(BaseModel):
    """Base of a backend's own options: frozen, and unknown names are rejected."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Parsed = TypeVar("Parsed", bound=ExtraOptions)


def parse_extra(backend: str, model: type[Parsed], extra: Mapping[str, str]) -> Parsed:
    """Read the options that only one backend knows; raise InputError with all that are wrong."""
    try:
        return model.model_validate(dict(extra))
    except ValidationError as error:
        known = ", ".join(model.model_fields) or "none"
        wrong = [
            f"backend {backend!r}: option {'.'.join(map(str, each['loc']))}={each['input']!r}: {each['msg']}"
            for each in error.errors()
        ]
        raise InputError("; ".join(wrong) + f"; its options: {known}") from error
