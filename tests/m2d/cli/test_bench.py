import json

from tests.m2d.cli.conftest import Run


def test_ratios_noise_and_versions_are_told_as_json(m2d: Run) -> None:
    result = m2d("bench", "story.yaml", "--pairs", "3", "--json", "--quiet")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    (backend,) = report["backends"]
    assert (backend["name"], backend["num_pairs"], backend["relative_difference"]) == ("eager", 3, 0.0)
    assert backend["ratios"]["smallest"] <= backend["ratios"]["median"] <= backend["ratios"]["largest"]
    assert "torch" in report["versions"]


def test_bad_input_exits_with_2_and_a_missing_device_with_3(m2d: Run) -> None:
    few = m2d("bench", "story.yaml", "--pairs", "1")
    assert (few.exit_code, "--pairs: 1 is below 3" in few.stderr) == (2, True)
    unknown = m2d("bench", "story.yaml", "--backend", "magic")
    assert (unknown.exit_code, "backend: got 'magic'" in unknown.stderr) == (2, True)
    unavailable = m2d("bench", "story.yaml", "--device", "cuda:99")
    assert (unavailable.exit_code, "cuda:99" in unavailable.stderr) == (3, True)
