"""Options that choose the model and the places of its parts, and how commands take options in common."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from m2d.cli.completion import models
from m2d.errors import InputError, RecipeError

if TYPE_CHECKING:
    from m2d.recipe.model_choice import ModelChoice


def _part(flag: str, name: str) -> Any:
    return typer.Option(
        flag,
        metavar="PLACE",
        help=f"{name} from another folder, hub id or safetensors file.",
        autocompletion=models,
    )


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The options that choose a model, in the order in which `--help` lists them."""

    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME",
            help="Model folder, hub id such as zai-org/CogVideoX-5b, builtin:puppet or builtin:puppet-large.",
            autocompletion=models,
        ),
    ] = None
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="NAME", help="Branch, tag or commit of a hub's model.")
    ] = None
    variant: Annotated[
        str | None, typer.Option("--variant", metavar="NAME", help="Weights in files of this name: fp16.")
    ] = None
    transformer: Annotated[str | None, _part("--transformer", "Transformer")] = None
    vae: Annotated[str | None, _part("--vae", "VAE")] = None
    text_encoder: Annotated[str | None, _part("--text-encoder", "Text encoder")] = None

    @property
    def choice(self) -> ModelChoice | None:
        """The model fields that were given; None if none was.

        Raises:
            RecipeError: A value is none that a recipe may have.
        """
        given = {name: value for name in MODEL_OPTIONS if (value := getattr(self, name)) is not None}
        if not given:
            return None
        from pydantic import ValidationError

        from m2d.recipe.explain import explain
        from m2d.recipe.model_choice import ModelChoice
        from m2d.recipe.overrides import COMMAND_LINE

        try:
            return ModelChoice(**given)
        except ValidationError as error:
            raise RecipeError(explain(error, model=ModelChoice, places=COMMAND_LINE)) from error


MODEL_OPTIONS = tuple(field.name for field in fields(ModelOptions))


def _model_apart(given: dict[str, Any]) -> None:
    """Turn `--set model=NAME` into `--model NAME`: the model is found before other fields count."""
    rest = []
    for text in given["settings"] or ():
        name, equals, value = (part.strip() for part in text.partition("="))
        if name not in MODEL_OPTIONS or not equals:
            rest.append(text)
            continue
        if given[name] is not None:
            raise InputError(
                f"given twice; give it once, or --{name.replace('_', '-')}", argument=f"set {name}"
            )
        given[name] = value
    if given["settings"]:
        given["settings"] = rest


def with_options(options_class: type[ModelOptions]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Append the options of a class to those of a command, which receives them as its argument `options`."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters
        hints = get_type_hints(options_class, include_extras=True)
        shared = {
            field.name: inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=hints[field.name],
            )
            for field in fields(options_class)
        }
        parameters = [*(own[name] for name in own if name != "options"), *shared.values()]

        @wraps(command)
        def run(**given: Any) -> None:
            chosen = {name: given.pop(name) for name in shared}
            if "settings" in chosen:
                _model_apart(chosen)
            command(**given, options=options_class(**chosen))

        # Typer reads both.
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # not in the stubs
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate
