"""Check: plan a recipe and report everything that is known before running it.

Imports torch only for a model folder, whose tensors it compares with their configs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from m2d.film.journal_folder import has_journal
from m2d.layout import SceneLayout
from m2d.pipeline.planning import check_model, plan_recipe
from m2d.recipe.model_choice import ModelChoice
from m2d.recipe.overrides import Overrides
from m2d.recipe.plan import RunPlan, WindowPlan
from m2d.registry import backend_names


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowReport:
    """The cost of one window.

    Attributes:
        part: The window's scenes and layout.
        num_attention_calls: Number of unmasked attention calls per layer.
        attention_share: Computed query-key pairs as a share of those of full attention.
    """

    part: WindowPlan
    num_attention_calls: int
    attention_share: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckReport:
    """The plan of a run, the cost of its windows in order, and problems that do not prevent the run."""

    plan: RunPlan
    windows: tuple[WindowReport, ...]
    warnings: tuple[str, ...]


def check(
    path: Path, *, model: ModelChoice | str | None = None, overrides: Overrides | None = None
) -> CheckReport:
    """Plan a recipe as `m2d generate` would run it; arguments and errors are those of `plan_recipe`."""
    return report_on(plan_recipe(path, model=model, overrides=overrides))


def report_on(plan: RunPlan) -> CheckReport:
    """Report everything that is known about a planned run.

    Raises:
        CheckpointError: The tensors of the model folder do not fit its configs.
        SchedulerError: The scheduler of the model folder would sample wrongly.
    """
    check_model(plan)
    return CheckReport(
        plan=plan,
        windows=tuple(
            WindowReport(
                part=part,
                num_attention_calls=len(part.layout.plan()),
                attention_share=attention_share(part.layout),
            )
            for part in plan.windows
        ),
        warnings=(*plan.warnings, *_run_warnings(plan)),
    )


def attention_share(layout: SceneLayout) -> float:
    """Return the computed query-key pairs as a share of those of full attention."""
    pairs = sum(sum(map(len, call.queries)) * sum(map(len, call.keys)) for call in layout.plan())
    return pairs / layout.num_tokens**2


def _run_warnings(plan: RunPlan) -> list[str]:
    warnings = []
    if plan.backend not in backend_names():
        warnings.append(f"no backend {plan.backend!r} is installed; `m2d doctor` lists those that are")
    if has_journal(plan.output):
        warnings.append(
            f"an unfinished run of {plan.output} is here; continue it with --resume or discard it with "
            "--force"
        )
    elif plan.output.exists():
        warnings.append(f"{plan.output} exists; `m2d generate` replaces it only with --force")
    return warnings
