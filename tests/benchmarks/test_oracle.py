import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from benchmarks.oracle import FIXTURE, TOLERANCE, measure


def test_every_output_is_the_official_model_s() -> None:
    errors = measure()
    assert len(errors) == 8
    assert max(errors.values()) <= TOLERANCE


@pytest.mark.parametrize("name", ["to_v.bias", "norm1.linear.weight", "time_embedding.linear_2.weight"])
def test_a_change_of_the_weights_shows(tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(FIXTURE, tmp_path / "fixture"))
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    for key in [key for key in weights if key.endswith(name)]:
        weights[key] = weights[key] + 0.01 * weights[key].abs().mean() + 1e-3
    save_file(weights, file)
    assert max(measure(folder).values()) > TOLERANCE
