from __future__ import annotations

import pytest

from m2d.errors import InputError
from m2d.pipeline.graphs import MissingGraphs
from m2d.progress import SilentReporter
from m2d.registry import get_backend
from m2d.tasks import bench
from tests.m2d.tasks.studio import Studio, open_studio
from tests.m2d.tasks.test_verify import ExportedBackend


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return open_studio(tmp_path_factory.mktemp("studio"))


def test_a_story_s_own_step_is_timed_on_every_backend(studio: Studio) -> None:
    report = bench.run(
        studio.plan(2), ["eager"], find_backend=get_backend, reporter=SilentReporter(), num_pairs=3
    )
    (timing,) = report.timings
    assert (timing.name, timing.comparison.num_pairs, timing.relative_difference) == ("eager", 3, 0.0)
    assert report.batch_size == 2  # guidance in one batch
    assert report.num_tokens > 0
    assert {"m2d", "torch", "diffusers"} == set(report.versions)


def test_a_missing_graph_is_told_before_eager_runs(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "RecordingBackend", None)
    find = {"eager": get_backend("eager"), "changed": ExportedBackend()}.__getitem__
    with pytest.raises(MissingGraphs, match="no graph"):
        bench.run(studio.plan(1), ["changed"], find_backend=find, reporter=SilentReporter(), num_pairs=3)


def test_too_few_pairs_are_refused_before_anything_runs(studio: Studio) -> None:
    with pytest.raises(InputError, match=r"^pairs: 2 is below 3"):
        bench.run(studio.plan(1), [], find_backend=get_backend, reporter=SilentReporter(), num_pairs=2)
