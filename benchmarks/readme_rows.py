"""What the README says of every results file: which figures, in which words, against what.

Owns wording and rounding, a section for each benchmark; `readme` puts the rows into tables. Measures nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.goals import GOALS, MODELS

_PROMPTED = {
    "setting": "Setting as prompted",
    "time": "Time of day as prompted",
    "on_stage": "Exactly the prompted actors on stage",
    "colour": "Body colour as prompted",
    "shape": "Body shape as prompted",
    "hat": "Hat as prompted",
    "action": "Action as prompted",
    "leakage": "Scenes that show another scene's action or cast",
}
_DRIFT = {
    "drift.tree_x": "The tree's place",
    "drift.sun_x": "The sun's place",
    "drift.horizon_y": "The horizon's height",
    "drift.actor_size": "The actors' size",
    "drift.all": "All four together",
}
_LAST_SCENE = {
    "on_stage": "Exactly the prompted actors on stage",
    "colour": "Body colour as prompted",
    "setting": "Setting as prompted",
}
_CODEC = {
    "codec.psnr_db": "Codec on unseen clips, all pixels",
    "codec.psnr_actors_db": "Codec on unseen clips, inside the actors' boxes",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One figure.

    Attributes:
        what: What was measured.
        value: The figure with its unit.
        limit: What it is held against.
        holds: Whether it is on the right side; None when it was not run.
    """

    what: str
    value: str
    limit: str
    holds: bool | None


def _faithful_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    yield _error_row("Largest error against the official Mask2DiT code, float32", report)


def _mask_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    count = report["num_layouts_per_mask"] * len(report["masks"])
    yield _error_row(f"Largest error against dense masks, {count:,} random layouts, float32", report)


def _startup_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    figures, limits, kept = report["figures"], report["limits"], report["kept"]
    rows: dict[str, tuple[str, Callable[[float], str]]] = {
        "help_s": ("`m2d --help`", lambda seconds: f"{seconds:.2f} s"),
        "generate_s": ("Three-scene film, from start to written", lambda seconds: f"{seconds:.0f} s"),
        "generate_peak_bytes": ("Memory at most, making it", lambda size: f"{size / 2**30:.1f} GiB"),
    }
    for key, (what, shown) in rows.items():
        limit = f"at most {shown(limits[key])}"
        yield Row(what=what, value=shown(figures[key]), limit=limit, holds=kept[key])
    same = report["identical_frames"]
    yield Row(
        what="The same story and seed twice",
        value="identical frames" if same else "different frames",
        limit="identical frames",
        holds=same,
    )


def _quality_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    checks = {check["name"]: check for check in report["checks"]}
    figures = report["figures"].get("mask2dit") or report["figures"].get("single") or {}
    for name, what in _PROMPTED.items():
        if name in checks:
            yield _share_row(what, checks[name], figures.get(name, {}))
    for name, what in _DRIFT.items():
        if name in checks:
            drift = report["drift_relative_to_isolated"].get(name.removeprefix("drift."), {})
            said = f"{what}: difference between scenes, where `isolated` is 100 %"
            yield _share_row(said, checks[name], drift)
    read = [check for name, check in checks.items() if name.startswith("reader.")]
    if read:
        worst = min(read, key=lambda check: check["value"])
        property_name = worst["name"].removeprefix("reader.").replace("_", " ").replace(".", "'s ")
        yield _share_row(
            f"Reader on unseen clips, worst of {len(read)} properties ({property_name})", worst, {}
        )
    for name, what in _CODEC.items():
        if name in checks:
            check = checks[name]
            value, limit = f"{check['value']:.1f} dB", f"at least {check['target']:g} dB"
            yield Row(what=what, value=value, limit=limit, holds=check["holds"])


def _growth_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    checks = {check["name"]: check for check in report["checks"]}
    last = report["chain"]["last_scene"]
    for name, what in _LAST_SCENE.items():
        yield _share_row(f"{what}, eight added scenes later", checks[f"last scene.{name}"], last[name])
    said = "Unprompted properties: scene 11 from scene 1, where other stories are 100 %"
    yield _share_row(said, checks["drift over the chain"], {})
    background = checks["background"]
    yield Row(
        what="Background colours: scene 11 from scene 1",
        value=f"{background['value']:.1f} levels of 255",
        limit=f"at most {background['target']:g}",
        holds=background["holds"],
    )
    said = "Re-rolled scene's unprompted properties, where joint generation is 100 %"
    yield _share_row(said, checks["re-roll drift"], report["reroll"]["relative"])
    kept = checks["re-roll keeps others"]
    yield Row(
        what="Other scenes' frames after a re-roll",
        value="identical" if kept["holds"] else f"identical in {kept['value']:.0%} of films",
        limit="identical",
        holds=kept["holds"],
    )
    yield _share_row("Time of the 12th added scene, where the 1st is 100 %", checks["time, 12th to 1st"], {})
    said = "The same for `m2d extend` as a whole, a command for each scene"
    yield _share_row(said, checks["time, 12th to 1st, a command each"], {})


def _kill_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    for task, figures in report["tasks"].items():
        yield Row(
            what=f"`kill -9` at random moments of `m2d {task}`, then going on: films with a difference",
            value=f"{figures['wrong']} of {figures['kills']}",
            limit="none",
            holds=figures["wrong"] == 0,
        )
    signals = report["signals"]
    yield Row(
        what="SIGTERM or Ctrl-C at random moments of the commands, then going on: films with a difference",
        value=f"{signals['wrong']} of {signals['stops']}",
        limit="none",
        holds=signals["wrong"] == 0,
    )


def _accounting_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    said = {
        "moved_bytes_ratio": "Bytes that a CogVideoX-5B block moves, where the official scheme's are 100 %",
        "peak_bytes_ratio": "Memory that it needs at once, likewise",
        "attention_flops_error": "Operations of its attention: distance from the formula",
    }
    for name, what in said.items():
        value, target = report[name], report["targets"][name]
        yield Row(what=what, value=f"{value:.1%}", limit=f"at most {target:.1%}", holds=value <= target)


def _speed_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    for trial in report["trials"]:
        if trial["target"] is None:
            continue
        noise = " (within the noise)" if trial["verdict"] == "within the noise" else ""
        yield Row(
            what=trial["name"],
            value=f"{trial['ratios']['median']:.3f}{noise}",
            limit=f"at most {trial['target']:.2f}",
            holds=trial["is_kept"],
        )


def _card_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    checks = {check["name"]: check for check in report["checks"]}
    for goal in GOALS:
        check = checks.get(goal.name, {})
        value = check.get("value")
        stands_in = (check.get("of") or "") in MODELS
        yield Row(
            what=f"{goal.what} (a model of one block)" if stands_in else goal.what,
            value="" if value is None else f"{value:.1%}",
            limit=f"{goal.bound} {goal.target:.0%}",
            holds=check.get("holds"),
        )
    for trial in report["trials"]:
        if trial["error"] is None and not trial["is_equal"]:
            said = f"Largest difference of the results: {trial['name']}"
            value, limit = f"{trial['relative_difference']:.1e}", f"at most {trial['tolerance']:.0e}"
            yield Row(what=said, value=value, limit=limit, holds=False)


def _cold_start_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    best = report["backends"][report["best"]]
    names = " and ".join(f"`{name}`" for name in report["backends"])
    yield Row(
        what=f"The best of {names}, `{report['best']}`: from start to exit, where `eager` is 100 %",
        value=f"{report['best_ratio']:.1%} (noise {best['noise_floor']:.1%})",
        limit=f"at most {report['limit']:.0%}",
        holds=report["is_kept"],
    )


def _same_film_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    for backend in report["backends"]:
        if backend["film"] is None:
            continue
        error, pixels = backend["max_relative_error"], backend["film"]["max_pixel_difference"]
        yield Row(
            what=f"`{backend['name']}` against `eager`: worst step, largest difference of a pixel",
            value=f"{error:.1e}, {pixels} of 255",
            limit=f"at most {report['step_tolerance']:.0e}, {report['pixel_tolerance']}",
            holds=backend["state"] == "same",
        )


def _training_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    speed, noise = report["plain_over_ours"], report["noise_floor"]
    is_noise = report["verdict"] == "within the noise"
    yield Row(
        what="Training step: speed, where a plain hand-written loop is 100 %",
        value=f"{speed:.1%}" + (f" (noise {noise:.1%})" if is_noise else ""),
        limit="at least 100%",
        holds=speed >= 1 or is_noise,
    )
    share = report["data_share"]
    yield Row(
        what="Of a step's time, spent on data", value=f"{share:.1%}", limit="at most 5%", holds=share <= 0.05
    )


def _train_kill_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    wrong, kills = report["with_losses"], report["kills"]
    yield Row(
        what="`kill -9` at random moments of `m2d train`, then going on: other weights or state",
        value=f"{wrong} of {kills}",
        limit="none",
        holds=wrong == 0,
    )


def _reject_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    listed, broken = report["num_listed"], report["num_broken"]
    yield Row(
        what=f"Broken videos among {report['num_clips']} that were listed with their reason",
        value=f"{listed} of {broken}",
        limit="all",
        holds=report["reached"],
    )


def _adapter_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    said = {"steps": "Steps of the training", "scenes": "Scenes that show the new hat"}
    for check in report["checks"]:
        first_word = check["name"].split()[0]
        is_count = first_word == "steps"
        yield Row(
            what=said.get(first_word, "What the other stories lost, worst figure"),
            value=str(check["value"]) if is_count else f"{check['value']:.1%}",
            limit=f"{check['bound']} " + (str(check["target"]) if is_count else f"{check['target']:.0%}"),
            holds=check["holds"],
        )


def _error_row(what: str, report: Mapping[str, Any]) -> Row:
    return Row(
        what=what,
        value=f"{report['max_abs_error']:.1e}",
        limit=f"at most {report['tolerance']:.0e}",
        holds=report["within_tolerance"],
    )


def _share_row(what: str, check: Mapping[str, Any], figure: Mapping[str, Any]) -> Row:
    value = "nothing to measure" if check["value"] is None else f"{check['value']:.1%}"
    if None not in (check["value"], figure.get("low"), figure.get("high")):
        value += f" ({figure['low']:.1%} to {figure['high']:.1%})"
    limit = f"{check['bound']} {check['target']:.0%}"
    return Row(what=what, value=value, limit=limit, holds=check["holds"])


# What is required before it could be run: shown as not yet run until its results are there.
PENDING: Mapping[str, Mapping[str, Any]] = {"speed-gpu": {"checks": [], "trials": []}}

SECTIONS: dict[str, tuple[str, Callable[[Mapping[str, Any]], Iterator[Row]]]] = {
    "oracle": ("Is it the same model?", _faithful_rows),
    "masks": ("Are the masks right?", _mask_rows),
    "startup": ("What a newcomer waits for", _startup_rows),
    "quality": ("The embedded model on stories it never saw", _quality_rows),
    "quality-large": ("The larger embedded model, likewise", _quality_rows),
    "growth": ("Films that grow", _growth_rows),
    "kills": ("Nothing lost on the way", _kill_rows),
    "train_kills": ("Nothing lost while training", _train_kill_rows),
    "rejects": ("Broken videos in a dataset", _reject_rows),
    "training": ("Training", _training_rows),
    "adapter": ("A new hat for the embedded model, by low-rank adapters", _adapter_rows),
    "same_film": ("Do all backends make the same film?", _same_film_rows),
    "accounting": ("The same work in fewer bytes", _accounting_rows),
    "speed": ("Times of a step, ours / theirs (official: as Mask2DiT's own code does it)", _speed_rows),
    "speed-gpu": ("One CogVideoX-5B block on a card, bfloat16, three scenes, guidance", _card_rows),
    "cold_start": ("A film from an exported graph", _cold_start_rows),
    "quality-single": ("Scenes made one by one, by the model before it saw stories", _quality_rows),
}
