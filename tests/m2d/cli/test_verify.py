import json
from pathlib import Path

from tests.m2d.cli.conftest import Run


def test_a_named_backend_is_compared_and_all_is_told_as_json(m2d: Run) -> None:
    result = m2d("verify", "story.yaml", "--backend", "eager", "--json", "--quiet")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert (report["all_same"], report["step_tolerance"], report["pixel_tolerance"]) == (True, 1e-5, 1)
    (backend,) = report["backends"]
    assert (backend["name"], backend["state"], backend["problem"]) == ("eager", "same", None)
    assert [(step["window"], step["step"]) for step in backend["steps"]] == [(1, 1), (1, 2)]
    assert backend["film"] == {"psnr_db": None, "max_pixel_difference": 0, "differing_share": 0.0}


def test_the_table_tells_the_worst_step_and_the_tolerances(m2d: Run) -> None:
    result = m2d("verify", "story.yaml", "--backend", "eager", "--steps", "1")
    assert result.exit_code == 0, result.stderr
    assert "same; worst of 1 step: 0.0e+00 (step 1)" in result.stdout
    assert "relative error up to 1e-05" in result.stdout


def test_a_backend_nobody_knows_and_one_that_cannot_run_here_exit_differently(m2d: Run) -> None:
    unknown = m2d("verify", "story.yaml", "--backend", "magic")
    assert (unknown.exit_code, "backend: got 'magic'" in unknown.stderr) == (2, True)
    unavailable = m2d("verify", "story.yaml", "--backend", "eager", "--device", "cuda:99")
    assert (unavailable.exit_code, "cuda:99" in unavailable.stderr) == (3, True)


def test_a_speed_is_compared_alone_and_only_those_that_leave_something_out(m2d: Run) -> None:
    result = m2d("verify", "story.yaml", "--speed", "balanced", "--json", "--quiet")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    # Two steps are too few to leave one out.
    assert report["speeds"]["balanced"]["max_pixel_difference"] == 0
    assert report["backends"] == []
    wrong = m2d("verify", "story.yaml", "--speed", "exact")
    assert (wrong.exit_code, "--speed: got 'exact'" in wrong.stderr) == (2, True)


def test_options_of_the_one_backend_that_is_compared_are_its_own(m2d: Run) -> None:
    tabled = m2d("verify", "story.yaml", "--backend", "eager", "--backend-option", "timestep_tables=true")
    assert tabled.exit_code == 0, tabled.stderr
    unknown = m2d("verify", "story.yaml", "--backend", "eager", "--backend-option", "warp=9")
    assert (unknown.exit_code, "its options: timestep_tables" in unknown.stderr) == (2, True)
    for names in ((), ("--backend", "eager", "--backend", "compile")):
        result = m2d("verify", "story.yaml", *names, "--backend-option", "timestep_tables=true")
        assert result.exit_code == 2
        assert "--backend-option: needs exactly one --backend" in result.stderr


def test_context_that_was_computed_once_is_told(m2d: Run, folder: Path) -> None:
    story = (folder / "story.yaml").read_text().replace("  - Actor1 jumps.\n", "  - Actor1 jumps.\n" * 2)
    (folder / "story.yaml").write_text(story + "mask: causal\n")
    result = m2d("verify", "story.yaml", "--backend", "eager", "--json", "--quiet")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["backends"][0]["context_bytes"] > 0
    told = m2d("verify", "story.yaml", "--backend", "eager", "--steps", "1")
    assert "context computed once: 0.1 MB" in " ".join(told.stdout.split())
