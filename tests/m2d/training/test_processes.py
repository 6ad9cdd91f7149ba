from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType

from m2d.errors import BackendUnavailable
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
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DEEPSPEED is not supported; FSDP2 shards weights"),
    ],
)
def test_a_launchers_wish_that_cannot_be_met_is_an_error(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BackendUnavailable, match=message):
        start_processes("cpu")


@pytest.mark.parametrize(
    ("name", "kind"), [("ddp", DistributedType.MULTI_GPU), ("fsdp2", DistributedType.FSDP)]
)
def test_accelerate_reads_the_shipped_configurations(name: str, kind: DistributedType) -> None:
    config = load_config_from_file(str(RECIPES / f"accelerate-{name}.yaml"))
    assert config.distributed_type == kind
    # Precision is the recipe's: Accelerate's would wrap the model a second time.
    assert config.mixed_precision == "no"
    if name == "fsdp2":
        from accelerate.commands.launch import _validate_launch_command, launch_command_parser

        words = ["--config_file", str(RECIPES / "accelerate-fsdp2.yaml"), "-m", "m2d", "train", "x.yaml"]
        parsed: argparse.Namespace = launch_command_parser().parse_args(words)
        launch, _, _ = _validate_launch_command(parsed)
        assert (launch.use_fsdp, str(launch.fsdp_version)) == (True, "2")
