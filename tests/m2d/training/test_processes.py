from __future__ import annotations

import argparse
import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType

from m2d.errors import BackendUnavailable
from m2d.training.launcher import asked_sharing
from m2d.training.processes import ALONE, start_processes

RECIPES = Path(__file__).parents[3] / "recipes" / "training"


def test_one_process_agrees_with_itself_and_does_the_main_work() -> None:
    assert ALONE.agree([True, False]) == [True, False]
    assert ALONE.on_main(lambda: "done") == "done"
    assert ALONE.sum(torch.tensor([2.0])).item() == 2.0


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "fsdp_version: 1 is not supported; set"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "MEGATRON_LM is not supported; FSDP2 shards weights"),
    ],
)
def test_a_launchers_wish_that_cannot_be_met_is_an_error(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BackendUnavailable, match=message):
        start_processes("cpu")


@pytest.mark.skipif(find_spec("deepspeed") is not None, reason="deepspeed is installed")
def test_a_missing_deepspeed_is_told_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    with pytest.raises(BackendUnavailable, match=r"needs the package deepspeed; .*'m2d\[deepspeed\]'"):
        start_processes("cpu")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ddp", DistributedType.MULTI_GPU),
        ("fsdp2", DistributedType.FSDP),
        ("zero2", DistributedType.DEEPSPEED),
        ("zero3", DistributedType.DEEPSPEED),
    ],
)
def test_accelerate_reads_the_shipped_configurations(name: str, kind: DistributedType) -> None:
    config = load_config_from_file(str(RECIPES / f"accelerate-{name}.yaml"))
    assert config.distributed_type == kind
    # Precision is the recipe's: Accelerate's would wrap the model a second time.
    assert config.mixed_precision == "no"


@pytest.mark.parametrize("sharing", ["fsdp2", "zero2", "zero3"])
def test_the_launchers_variables_for_the_shipped_configurations_ask_for_what_they_are_named_for(
    monkeypatch: pytest.MonkeyPatch, sharing: str
) -> None:
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    for name in [name for name in os.environ if name.startswith(("ACCELERATE_", "FSDP_"))]:
        monkeypatch.delenv(name)
    words = ["--config_file", str(RECIPES / f"accelerate-{sharing}.yaml"), "-m", "m2d", "train", "x.yaml"]
    parsed: argparse.Namespace = launch_command_parser().parse_args(words)
    launch, _, _ = _validate_launch_command(parsed)
    if sharing == "fsdp2":
        variables = prepare_multi_gpu_env(launch)
    else:
        # A list for its own bookkeeping, which the command adds at the end.
        launch.deepspeed_fields_from_accelerate_config = ""
        _, variables = prepare_deepspeed_cmd_env(launch)
    assert asked_sharing(variables) == sharing
