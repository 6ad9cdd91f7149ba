"""Models of the Hugging Face hub that are on this machine. Imports no torch; downloads nothing."""

from __future__ import annotations

from pathlib import Path

from m2d.model.components import INDEX_FILE

_MAIN = "main"


def cached_snapshot(model_id: str) -> Path | None:
    """Return the folder of a model in Hugging Face's cache, which `HF_HOME` moves; None if it is not there.

    Args:
        model_id: Such as `zai-org/CogVideoX-5b`, with `@` and a branch, tag or commit if it is not `main`.
    """
    # Takes a third of a second, which folders need not spend.
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    name, _, revision = model_id.partition("@")
    try:
        found = try_to_load_from_cache(name, INDEX_FILE, revision=revision or _MAIN)
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None
