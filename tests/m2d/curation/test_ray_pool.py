"""Ray gives the same data set as the processes of this machine; without its package the user is told."""

from __future__ import annotations

import importlib.util
import os
import time
from pathlib import Path

import pytest

from m2d.data.decode import Broken
from m2d.errors import BackendUnavailable
from tests.m2d.curation.conftest import build_set

HAS_RAY = importlib.util.find_spec("ray") is not None


@pytest.mark.skipif(HAS_RAY, reason="ray is installed")
def test_a_missing_package_is_named(films: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match=r"cluster: it needs the package ray; pip install 'm2d\[ray"):
        build_set(tmp_path / "set", films, cluster="ray", stages=("scan",))


@pytest.mark.long
@pytest.mark.skipif(not HAS_RAY, reason="ray is not installed")
def test_a_cluster_builds_the_same_data_set(films: Path, straight: Path, tmp_path: Path) -> None:
    build_set(tmp_path / "set", films, cluster="ray")
    for stage in (straight / "stages").iterdir():
        assert (tmp_path / "set" / "stages" / stage.name).read_bytes() == stage.read_bytes()


def misbehave(how: str) -> str:
    if how == "hang":
        time.sleep(600)
    if how == "crash":
        os._exit(3)
    if how == "raise":
        raise ValueError("no film")
    return how


@pytest.mark.long
@pytest.mark.skipif(not HAS_RAY, reason="ray is not installed")
@pytest.mark.parametrize("in_actors", [False, True])
def test_calls_that_hang_or_crash_are_broken_and_the_others_are_done(in_actors: bool) -> None:
    from m2d.curation.ray_pool import RayPool

    with RayPool(time_limit_s=8, in_actors=in_actors) as pool:
        found = dict(pool.map(misbehave, ["a", "crash", "b", "hang", "c"]))
        assert [found[name] for name in "abc"] == ["a", "b", "c"]
        crashed, hung = found["crash"], found["hang"]
        assert isinstance(crashed, Broken)
        assert crashed.reason.startswith("crashes the decoder (")
        assert hung == Broken(reason="is not decoded after 8 s; its task was ended")
        with pytest.raises(ValueError, match="no film"):
            list(pool.map(misbehave, ["raise"]))


def process_of(_: int) -> int:
    time.sleep(0.2)
    return os.getpid()


@pytest.mark.long
@pytest.mark.skipif(not HAS_RAY, reason="ray is not installed")
def test_actors_stay_from_the_first_input_to_the_last() -> None:
    import ray

    from m2d.curation.ray_pool import RayPool

    with RayPool(time_limit_s=8, in_actors=True) as pool:
        found = [pid for _, pid in pool.map(process_of, range(8 * (os.cpu_count() or 1)))]
    assert len(set(found)) <= ray.cluster_resources()["CPU"]
    assert min(map(found.count, found)) > 1
