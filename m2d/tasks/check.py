"""Check: plan a recipe and report everything that is known before running it.

Imports torch only for a model folder, whose tensors it compares with their configs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from m2d.backend_checks import check_memory, memory_modes
from m2d.families.published import PublishedSource
from m2d.film.journal_folder import has_journal
from m2d.layout import SceneLayout
from m2d.pipeline.planning import check_model, plan_recipe
from m2d.recipe.model_choice import ModelChoice
from m2d.recipe.overrides import Overrides
from m2d.recipe.plan import RunPlan, WindowPlan
from m2d.registry import backend_names, get_backend

if TYPE_CHECKING:
    from m2d.pipeline.placing import Prediction


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
    """The plan of a run, the cost of its windows in order, and problems that do not prevent the run.

    Attributes:
        prediction: Operations, time and memory; None for an embedded model, which fits everywhere, unless a
            card was named.
        refusal: Why a run on this machine would end before any work: no memory mode fits.
    """

    plan: RunPlan
    windows: tuple[WindowReport, ...]
    warnings: tuple[str, ...]
    prediction: Prediction | None = None
    refusal: str = ""


def check(
    path: Path, *, model: ModelChoice | str | None = None, overrides: Overrides | None = None
) -> CheckReport:
    """Plan a recipe as `m2d generate` would run it; arguments and errors are those of `plan_recipe`."""
    return report_on(plan_recipe(path, model=model, overrides=overrides))


def report_on(plan: RunPlan, *, gpu: str | None = None) -> CheckReport:
    """Report everything that is known about a planned run.

    Args:
        gpu: A card to predict for, by its name; None predicts for the plan's device on this machine.

    Raises:
        InputError: The table has no such card, or the backend has no such memory mode.
        CheckpointError: The tensors of the model folder do not fit its configs.
        SchedulerError: The scheduler of the model folder would sample wrongly.
    """
    absent = [plan.source.warning] if isinstance(plan.source, PublishedSource) else []
    if not absent:
        check_model(plan.source, scheduler=plan.sampling.scheduler)
    prediction = _prediction(plan, gpu)
    problem = "" if prediction is None or prediction.choice.is_fitting else prediction.problem()
    # A mode that was asked for is tried all the same, and a card is no more than asked about.
    is_refused = bool(problem) and plan.memory == "auto" and gpu is None
    slow = [] if prediction is None else prediction.warnings(device=plan.device)
    predicted = [*([problem] if problem and not is_refused else []), *slow]
    return CheckReport(
        plan=plan,
        prediction=prediction,
        refusal=problem if is_refused else "",
        windows=tuple(
            WindowReport(
                part=part,
                num_attention_calls=len(part.layout.plan()),
                attention_share=attention_share(part.layout),
            )
            for part in plan.windows
        ),
        warnings=(*absent, *plan.warnings, *_run_warnings(plan), *predicted),
    )


def _prediction(plan: RunPlan, gpu: str | None) -> Prediction | None:
    is_small = plan.source.is_embedded and gpu is None
    if is_small or plan.backend not in backend_names():
        return None
    from m2d.pipeline.placing import can_predict, predict

    backend = get_backend(plan.backend)
    check_memory(backend, memory=plan.memory, quantized=plan.quantized)
    if gpu is None and not can_predict(plan.device):
        return None
    return predict([plan], modes=memory_modes(backend), gpu=gpu)


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
