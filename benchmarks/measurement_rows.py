"""The rows of the tables of figures: what each results file shows, in which words, against which limit.

Owns wording and rounding, one section per benchmark; `measurements` formats the tables. Measures nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from benchmarks.goals import GOALS, MODELS
from benchmarks.house import LIMITS
from benchmarks.row import Row

_PROMPTED = {
    "setting": "Setting as prompted",
    "time": "Time of day as prompted",
    "on_stage": "Exactly the prompted actors on stage",
    "colour": "Body colour as prompted",
    "shape": "Body shape as prompted",
    "hat": "Hat as prompted",
    "action": "Action as prompted",
    "leakage": "Scenes that show another scene's action or cast",
    "leakage.setting": "Scenes that show another scene's place or time",
}
_DRIFT = {
    "drift.tree_x": "The tree's place",
    "drift.sun_x": "The sun's place",
    "drift.horizon_y": "The horizon's height",
    "drift.actor_size": "The actors' size",
    "drift.all": "All four together",
    "drift.eyes": "The actors' eyes",
}
_LAST_SCENE = {
    "on_stage": "Exactly the prompted actors on stage",
    "colour": "Body colour as prompted",
    "setting": "Setting as prompted",
}
_VAE = {
    "codec.psnr_db": "VAE on unseen clips, all pixels",
    "codec.psnr_actors_db": "VAE on unseen clips, inside the actors' boxes",
}


def _faithful_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    yield _error_row("Largest error against the official Mask2DiT code, float32", report)


def _mask_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    count = report["num_layouts_per_mask"] * len(report["masks"])
    yield _error_row(f"Largest error against dense masks, {count:,} random layouts, float32", report)


def _startup_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    figures, limits, kept = report["figures"], report["limits"], report["kept"]
    rows: dict[str, tuple[str, Callable[[float], str]]] = {
        "help_s": ("`m2d --help`", lambda seconds: f"{seconds:.2f} s"),
        "generate_s": (
            "Three-scene film, from the command to the finished file",
            lambda seconds: f"{seconds:.0f} s",
        ),
        "generate_peak_bytes": ("Peak memory while making it", lambda size: f"{size / 2**30:.1f} GiB"),
    }
    for key, (what, shown) in rows.items():
        limit = f"at most {shown(limits[key])}"
        yield Row(key=key, what=what, value=shown(figures[key]), limit=limit, holds=kept[key])
    same = report["identical_frames"]
    value = "identical frames" if same else "different frames"
    yield Row("identical_frames", "The same story and seed twice", value, "identical frames", same)


def _library_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    saved, limit = report["saved_s"], report["least_saved_s"]
    what = "A second call of `StoryPipeline`, faster than the first by"
    yield Row("saved_s", what, f"{saved:.1f} s", f"at least {limit:.0f} s", saved >= limit)
    same = report["same_frames"]
    shown = "identical" if same else "different"
    yield Row("same_frames", "Its frames and those of `m2d generate`", shown, "identical", same)


def _opening_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    figures, limits, kept = report["figures"], report["limits"], report["kept"]
    rows: dict[str, tuple[str, Callable[[float], str]]] = {
        "peak_share": (
            f"Memory to open a part, worst of {len(report['openings'])}, its size in memory = 100 %",
            lambda share: f"{share:.0%}",
        ),
        "refusal_s": (
            f"Processor time until a command refuses a 5B folder, worst of {len(report['refusals'])}",
            lambda seconds: f"{seconds:.1f} s",
        ),
    }
    for key, (what, shown) in rows.items():
        yield Row(key, what, shown(figures[key]), f"at most {shown(limits[key])}", kept[key])


def quality_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    """Yield the figures of `benchmarks.quality`."""
    checks = {check["name"]: check for check in report["checks"]}
    by_mask = report["figures"]
    figures = by_mask.get(report.get("mask", "mask2dit")) or by_mask.get("single") or {}
    for name, what in _PROMPTED.items():
        if name in checks:
            yield _share_row(what, checks[name], figures.get(name, {}))
    for name, what in _DRIFT.items():
        if name in checks:
            drift = report["drift_relative_to_isolated"].get(name.removeprefix("drift."), {})
            yield _share_row(f"{what}: difference between scenes, `isolated` = 100 %", checks[name], drift)
    read = [check for name, check in checks.items() if name.startswith("reader.")]
    if read:
        worst = min(read, key=lambda check: check["value"])
        property_name = worst["name"].removeprefix("reader.").replace("_", " ").replace(".", "'s ")
        what = f"Attribute classifier on unseen clips, worst of {len(read)} properties ({property_name})"
        yield _share_row(what, worst, {})
    for name, what in _VAE.items():
        if name in checks:
            check = checks[name]
            value, limit = f"{check['value']:.1f} dB", f"at least {check['target']:g} dB"
            yield Row(key=name, what=what, value=value, limit=limit, holds=check["holds"])


def _growth_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    checks = {check["name"]: check for check in report["checks"]}
    last, end = report["chain"]["last_scene"], report["chain"]["num_scenes"]
    added = end - 3
    for name, what in _LAST_SCENE.items():
        yield _share_row(f"{what}, {added} added scenes later", checks[f"last scene.{name}"], last[name])
    what = f"Unprompted properties: distance of scene {end} from scene 1, other stories = 100 %"
    yield _share_row(what, checks["drift over the chain"], {})
    background = checks["background"]
    for name in ("contrast", "colour"):
        check = checks[f"change of {name}"]
        what = f"Change of {name} from scene 1 to scene {end}, beyond that of the drawn scenes"
        yield _share_row(what, check, {})
    what = f"Background colours: distance of scene {end} from scene 1"
    value, limit = f"{background['value']:.1f} levels of 255", f"at most {background['target']:g}"
    yield Row(background["name"], what, value, limit, background["holds"])
    what = (
        "Unprompted properties of a re-rolled scene: distance from its neighbours, joint generation = 100 %"
    )
    yield _share_row(what, checks["re-roll drift"], report["reroll"]["relative"])
    kept = checks["re-roll keeps others"]
    yield Row(
        key=kept["name"],
        what="Frames of the other scenes after a re-roll",
        value="identical" if kept["holds"] else f"identical in {kept['value']:.0%} of films",
        limit="identical",
        holds=kept["holds"],
    )
    yield _share_row("Denoising time of the 12th added scene, 1st = 100 %", checks["time, 12th to 1st"], {})
    what = "Time of the whole 12th `m2d extend` command, 1st = 100 %"
    yield _share_row(what, checks["time, 12th to 1st, a command each"], {})


def _kill_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    for task, figures in report["tasks"].items():
        yield Row(
            key=task,
            what=f"Films that differ after `kill -9` at a random moment of `m2d {task}` and `--resume`",
            value=f"{figures['wrong']} of {figures['kills']}",
            limit="none",
            holds=figures["wrong"] == 0,
        )
    signals = report["signals"]
    what = "Films that differ after SIGTERM or Ctrl-C at a random moment and `--resume`"
    value = f"{signals['wrong']} of {signals['stops']}"
    yield Row("signals", what, value, "none", signals["wrong"] == 0)


def _accounting_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    rows = {
        "moved_bytes_ratio": "Bytes moved by a CogVideoX-5B block, official scheme = 100 %",
        "peak_bytes_ratio": "Peak memory of the block, official scheme = 100 %",
        "attention_flops_error": "Operations of its attention: deviation from the formula",
    }
    for name, what in rows.items():
        value, target = report[name], report["targets"][name]
        limit = f"at most {target:.1%}"
        yield Row(key=name, what=what, value=f"{value:.1%}", limit=limit, holds=value <= target)


def _speed_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    for trial in report["trials"]:
        if trial["target"] is None:
            continue
        noise = " (within the noise)" if trial["verdict"] == "within the noise" else ""
        yield Row(
            key=trial["key"],
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
            key=goal.name,
            what=f"{goal.what} (a model of one block)" if stands_in else goal.what,
            value="" if value is None else f"{value:.1%}",
            limit=f"{goal.bound} {goal.target:.0%}",
            holds=check.get("holds"),
        )
    for trial in report["trials"]:
        if trial["error"] is None and not trial["is_equal"]:
            what = f"Largest difference of the results: {trial['name']}"
            value, limit = f"{trial['relative_difference']:.1e}", f"at most {trial['tolerance']:.0e}"
            yield Row(key=trial["key"], what=what, value=value, limit=limit, holds=False)


def _cold_start_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    best = report["backends"][report["best"]]
    names = " and ".join(f"`{name}`" for name in report["backends"])
    yield Row(
        key="best",
        what=f"Whole command with the faster of {names} (`{report['best']}`), `eager` in float32 = 100 %",
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
            key=backend["name"],
            what=f"`{backend['name']}` against `eager`: worst step (relative), largest pixel difference",
            value=f"{error:.1e}, {pixels} of 255",
            limit=f"at most {report['step_tolerance']:.0e}, {report['pixel_tolerance']}",
            holds=backend["state"] == "same",
        )


def _training_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    speed, noise = report["plain_over_ours"], report["noise_floor"]
    is_noise = report["verdict"] == "within the noise"
    yield Row(
        key="speed",
        what="Speed of a training step, plain hand-written loop = 100 %",
        value=f"{speed:.1%}" + (f" (noise {noise:.1%})" if is_noise else ""),
        limit="at least 100%",
        holds=speed >= 1 or is_noise,
    )
    share = report["data_share"]
    yield Row(
        key="data_share",
        what="Share of a step's time spent on data",
        value=f"{share:.1%}",
        limit="at most 5%",
        holds=share <= 0.05,
    )


def _train_kill_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    wrong, kills = report["with_losses"], report["kills"]
    yield Row(
        key="train",
        what="Trainings with other weights or state after `kill -9` at a random moment and `--resume`",
        value=f"{wrong} of {kills}",
        limit="none",
        holds=wrong == 0,
    )


def _reject_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    listed, broken = report["num_listed"], report["num_broken"]
    yield Row(
        key="listed",
        what=f"Broken videos among {report['num_clips']} listed with their reason",
        value=f"{listed} of {broken}",
        limit="all",
        holds=report["reached"],
    )


def _adapter_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    rows = {"steps": "Training steps", "scenes": "Scenes that show the new hat"}
    for check in report["checks"]:
        first_word = check["name"].split()[0]
        is_count = first_word == "steps"
        yield Row(
            key=first_word,
            what=rows.get(first_word, "Loss on other stories, worst figure"),
            value=str(check["value"]) if is_count else f"{check['value']:.1%}",
            limit=f"{check['bound']} " + (str(check["target"]) if is_count else f"{check['target']:.0%}"),
            holds=check["holds"],
        )


def _draft_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    for model in report["models"]:
        figure = model["stories"]["all required"]
        yield Row(
            key=model["model"]["name"],
            what=f"Previews that show where everything stands in the film, `{model['model']['name']}`",
            value=f"{figure['value']:.1%} ({figure['low']:.1%} to {figure['high']:.1%})",
            limit=f"at least {model['required']:.0%}",
            holds=model["holds"],
        )


def _continued_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    most, known, unknown = report["most_continued_jump"], report["known"], report["unknown"].values()
    yield Row(
        key="known",
        what=f"Largest jump after the given frame, {len(known)} videos of the puppet theatre",
        value=f"{max(known):.1f} levels",
        limit=f"at most {most:.0f}",
        holds=max(known) <= most,
    )
    yield Row(
        key="unknown",
        what=f"Smallest jump after the given frame, {len(unknown)} other videos",
        value=f"{min(unknown):.1f} levels",
        limit=f"more than {most:.0f}",
        holds=min(unknown) > most,
    )


def _house_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    for name, limit in report["limits"].items():
        value, bound = f"{report[name]:,}", f"at most {limit:,}"
        yield Row(key=name, what=LIMITS[name][0], value=value, limit=bound, holds=report[name] <= limit)


def _error_row(what: str, report: Mapping[str, Any]) -> Row:
    return Row(
        key="max_abs_error",
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
    return Row(key=check["name"], what=what, value=value, limit=limit, holds=check["holds"])


# Required, and shown as not yet run while there are no results.
PENDING: Mapping[str, Mapping[str, Any]] = {"speed-gpu": {"checks": [], "trials": []}}

SECTIONS: dict[str, tuple[str, Callable[[Mapping[str, Any]], Iterator[Row]]]] = {
    "oracle": ("Same model as the official code?", _faithful_rows),
    "masks": ("Are the masks right?", _mask_rows),
    "startup": ("Start-up and first film", _startup_rows),
    "library": ("The library", _library_rows),
    "opening": ("Opening a checkpoint of CogVideoX-5B's layout", _opening_rows),
    "quality": ("The embedded model on stories it never saw", quality_rows),
    "quality-changing": ("The embedded model on stories that change place or time", quality_rows),
    "quality-large": ("The larger embedded model on stories it never saw", quality_rows),
    "quality-large-changing": ("The larger one on stories that change place or time", quality_rows),
    "drafts": ("Previews against the films that follow", _draft_rows),
    "continued": ("External videos that a scene continues: what is warned about", _continued_rows),
    "growth": ("Films that grow", _growth_rows),
    "kills": ("Interrupted films", _kill_rows),
    "train_kills": ("Interrupted trainings", _train_kill_rows),
    "rejects": ("Broken videos in a dataset", _reject_rows),
    "training": ("Training speed", _training_rows),
    "adapter": ("LoRA: a new hat for the embedded model", _adapter_rows),
    "same_film": ("Do all backends make the same film?", _same_film_rows),
    "accounting": ("Bytes and operations of a block, counted", _accounting_rows),
    "speed": (
        "Time of a step on a CPU",
        _speed_rows,
    ),
    "speed-gpu": ("One CogVideoX-5B block on a GPU, bfloat16, three scenes, guidance", _card_rows),
    "cold_start": ("Whole command with an exported graph", _cold_start_rows),
    "quality-single": ("The model before it was trained on stories, scenes made one by one", quality_rows),
    "house": ("Size and prose of the code", _house_rows),
}
