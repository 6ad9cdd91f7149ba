"""There is one cache folder: the user's own, or the one that the environment names."""

from pathlib import Path

import pytest

from m2d.cache_root import cache_root


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"M2D_CACHE": "/named", "XDG_CACHE_HOME": "/xdg"}, Path("/named")),
        ({"M2D_CACHE": "", "XDG_CACHE_HOME": "/xdg"}, Path("/xdg/m2d")),
        ({"M2D_CACHE": "", "XDG_CACHE_HOME": ""}, Path.home() / ".cache/m2d"),
    ],
)
def test_the_environment_names_the_cache(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: Path
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_root() == expected
