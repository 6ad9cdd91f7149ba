"""Defaults of published models are those that their authors recommend."""

from __future__ import annotations

import pytest

from m2d.families.cogvideox.sampling import default_sampling
from m2d.families.registry import known_model


@pytest.mark.parametrize(
    ("model", "class_name", "scheduler", "is_dynamic"),
    [
        ("cogvideox-2b", "CogVideoXTransformer3DModel", None, False),
        ("cogvideox-5b", "CogVideoXTransformer3DModel", "dpm", True),
        ("cogvideox-5b", "MultiPromptCogVideoXTransformer3DModel", None, False),
    ],
)
def test_every_published_model_samples_as_its_authors_do(
    model: str, class_name: str, scheduler: str | None, is_dynamic: bool
) -> None:
    known = known_model(model)
    assert known is not None
    found = default_sampling({**known.transformer, "_class_name": class_name})
    assert (found.num_inference_steps, found.guidance_scale) == (50, 6.0)
    assert (found.scheduler, found.dynamic_guidance) == (scheduler, is_dynamic)
