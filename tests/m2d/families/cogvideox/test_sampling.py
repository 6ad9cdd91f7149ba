"""Defaults of published models are those that their authors recommend."""

from __future__ import annotations

import pytest

from m2d.families.cogvideox.family import COGVIDEOX
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


def test_a_published_transformer_beside_the_vae_of_another_model_is_doubted() -> None:
    large, small = COGVIDEOX.known_models["cogvideox-5b"], COGVIDEOX.known_models["cogvideox-2b"]
    doubt = COGVIDEOX.vae_doubt(large.transformer, small.vae)
    assert "scaling_factor 1.15258426 is that of CogVideoX-2b, but the transformer has the sizes of" in doubt
    assert "CogVideoX-5b, whose VAE has 0.7" in doubt
    assert "is that of CogVideoX-5b" in COGVIDEOX.vae_doubt(small.transformer, large.vae)
    for known in COGVIDEOX.known_models.values():
        assert COGVIDEOX.vae_doubt(known.transformer, known.vae) == ""
    # Neither a transformer of other sizes nor a VAE with a factor of its own is certain.
    assert COGVIDEOX.vae_doubt({**large.transformer, "num_layers": 8}, small.vae) == ""
    assert COGVIDEOX.vae_doubt(large.transformer, {**small.vae, "scaling_factor": 0.9}) == ""
