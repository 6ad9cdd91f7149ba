from pathlib import Path

import pytest

from tests.m2d.model.tiny_model import build_tiny_model


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete model folder. Tests that change it copy it first."""
    return build_tiny_model(tmp_path_factory.mktemp("models") / "tiny")
