from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from m2d.errors import BackendUnavailable
from m2d.training.launcher import asked_sharing, refuse_for_deepspeed
from m2d.training.recipe import TrainingRecipe

STAGE_2 = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}
STAGE_3 = {**STAGE_2, "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3", "ACCELERATE_DEEPSPEED_ZERO3_INIT": "false"}
ADAMW = {"name": "adamw", "lr": 1e-3}


@pytest.mark.parametrize(
    ("variables", "sharing"),
    [
        ({}, "ddp"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, "fsdp2"),
        (STAGE_2, "zero2"),
        (STAGE_3, "zero3"),
        ({**STAGE_2, "ACCELERATE_GRADIENT_CLIPPING": "none", "ACCELERATE_MIXED_PRECISION": "no"}, "zero2"),
    ],
)
def test_variables_say_how_a_training_is_shared(variables: dict[str, str], sharing: str) -> None:
    assert asked_sharing(variables) == sharing


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ACCELERATE_DEEPSPEED_ZERO_STAGE": "1"}, "zero_stage: 1: allowed: 2, 3, as in recipes/training"),
        (
            {"ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu"},
            "offload_optimizer_device: cpu is not supported with DeepSpeed; set none, or use fsdp2",
        ),
        (
            {"ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "nvme"},
            "offload_param_device: nvme is not supported with DeepSpeed",
        ),
        (
            {"ACCELERATE_DEEPSPEED_CONFIG_FILE": "ds.json"},
            "deepspeed_config_file: ds.json is not supported with DeepSpeed; leave it out",
        ),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, "gradient_accumulation_steps: 4 .* set accumulate"),
        ({"ACCELERATE_GRADIENT_CLIPPING": "1.0"}, "gradient_clipping: 1.0 .* set optimizer.grad_clip"),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "mixed_precision: bf16 .* set precision in the recipe"),
        ({"ACCELERATE_DEEPSPEED_ZERO3_INIT": "true"}, "zero3_init_flag must be false"),
    ],
)
def test_a_deepspeed_configuration_that_asks_for_more_is_refused(
    changes: dict[str, str], message: str
) -> None:
    with pytest.raises(BackendUnavailable, match=message):
        asked_sharing({**STAGE_3, **changes})


def test_accelerates_own_default_of_sharing_out_every_model_is_refused() -> None:
    variables = {name: value for name, value in STAGE_3.items() if name != "ACCELERATE_DEEPSPEED_ZERO3_INIT"}
    with pytest.raises(BackendUnavailable, match="zero3_init_flag must be false"):
        asked_sharing(variables)


@pytest.mark.parametrize(
    ("sharing", "changes", "message"),
    [
        ("zero2", {}, r"optimizer.name: muon .*DeepSpeed \(zero2\) .*accelerate-fsdp2.yaml"),
        ("zero3", {"optimizer": {**ADAMW, "name": "adamw8bit"}}, "optimizer.name: adamw8bit .*-ddp.yaml"),
        ("zero3", {"optimizer": ADAMW, "lora": {"rank": 4}}, r"lora: DeepSpeed \(zero3\) keeps all weights"),
        ("zero3", {"optimizer": ADAMW, "compile": True}, "compile: .*zero2.yaml"),
    ],
)
def test_what_deepspeed_cannot_do_is_refused_with_what_to_use(
    make_recipe: Callable[..., TrainingRecipe], sharing: Any, changes: dict[str, Any], message: str
) -> None:
    recipe = make_recipe(**changes)
    with pytest.raises(BackendUnavailable, match=message):
        refuse_for_deepspeed(recipe, sharing)
    # The same recipe is another way's business.
    refuse_for_deepspeed(recipe, "fsdp2")


def test_a_plain_recipe_is_deepspeeds_to_train(make_recipe: Callable[..., TrainingRecipe]) -> None:
    refuse_for_deepspeed(make_recipe(optimizer=ADAMW), "zero3")
    refuse_for_deepspeed(make_recipe(optimizer=ADAMW, compile=True), "zero2")
