from pathlib import Path

import pytest

from benchmarks.cold_start import compare, main, stages_of
from benchmarks.startup import Run


def runs_of(*walls_s: float) -> list[Run]:
    return [Run(wall_s=wall_s, cpu_s=wall_s, peak_bytes=1) for wall_s in walls_s]


def test_a_round_is_a_backend_between_two_runs_of_eager() -> None:
    # The machine is twice as slow in the second round and slows down within the third.
    runs = {"eager": runs_of(4, 4, 8, 8, 4, 6), "aot": runs_of(2, 4, 2.5)}
    result = compare(runs, "aot")
    assert result.ratios.median == 0.5
    assert (result.noise.smallest, result.noise.median, result.noise.largest) == (1, 1, 1.5)
    assert result.num_pairs == 3


def test_fewer_than_three_rounds_are_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["cold_start", "--pairs", "2"])
    with pytest.raises(SystemExit):
        main()
    assert "--pairs 2: give 3 or more" in capsys.readouterr().err


def test_stages_are_read_beside_the_film(tmp_path: Path) -> None:
    folder = tmp_path / "film.m2d"
    folder.mkdir()
    (folder / "run.json").write_text('{"timings_s": {"denoise": 1.5, "write": 1}}')
    assert stages_of(tmp_path / "film.mp4") == {"denoise": 1.5, "write": 1.0}
