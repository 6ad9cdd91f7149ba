"""Every failure a user can cause or meet, as types the CLI turns into one red line and an exit code.

Owns the exit codes and the list of remedies. Messages name no command and no flag: `m2d/cli/remedies.py`
words each remedy for the command line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum, auto
from typing import ClassVar

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_UNAVAILABLE = 3
EXIT_RESUMABLE = 75
# What a library raises for a config or a file that it cannot use.
LIBRARY_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, OSError, RuntimeError),
    *(TypeError, ValueError),
)


class Remedy(StrEnum):
    """What the user can do about a failure; the member's name says it, the CLI words it with its flags."""

    CHOOSE_OUTPUT = auto()
    OVERWRITE = auto()
    WAIT = auto()
    RESUME = auto()
    FREE_MEMORY_AND_RESUME = auto()
    SAVE_MEMORY = auto()
    SAVE_MEMORY_AND_RESUME = auto()
    RESUME_TRAINING = auto()
    RESTART_TRAINING = auto()
    GIVE_TRAINED_RUN = auto()
    PACK_MODEL = auto()
    GIVE_CUTS = auto()
    WRITE_RECIPE = auto()
    TRAIN_ON_CLIPS = auto()
    SHOW_DOCTOR = auto()
    DISCARD_RUN = auto()
    RESUME_OR_DISCARD = auto()
    REPEAT_OR_DISCARD = auto()
    START_RUN = auto()
    RESUME_WITHOUT_PREVIEWS = auto()
    GIVE_MODEL = auto()
    GET_NETWORKS = auto()
    GIVE_LORA = auto()
    GET_MODEL = auto()


class M2DError(Exception):
    """A failure with a message for the user: what was wrong, the value got, what is allowed.

    Args:
        message: The facts.
        remedy: What the user can do, where that takes a command or a flag.
    """

    exit_code: ClassVar[int] = EXIT_FAILED

    def __init__(self, message: str = "", *, remedy: Remedy | None = None) -> None:
        super().__init__(message)
        self.remedy = remedy


class InputError(M2DError):
    """The request cannot be served as written: an argument, a prompt, a size, a path.

    Args:
        argument: The argument at fault, such as `cuts`; it starts the text, and the CLI shows it as its flag.
    """

    exit_code = EXIT_BAD_INPUT

    def __init__(self, message: str = "", *, argument: str = "", remedy: Remedy | None = None) -> None:
        super().__init__(f"{argument}: {message}" if argument else message, remedy=remedy)
        self.argument = argument


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One thing wrong with a recipe.

    Attributes:
        path: The recipe file as the user named it.
        line: 1-based line, 0 when the problem has no place in the text.
        column: 1-based column, 0 when unknown.
        field: Dotted key path such as `scenes[1].num_frames`; empty for the document itself.
    """

    path: str
    line: int
    column: int
    field: str
    message: str

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}:{self.column}" if self.line else self.path
        return f"{place}: {self.field}: {self.message}" if self.field else f"{place}: {self.message}"


class RecipeError(InputError):
    """A recipe with one or more problems, all reported at once; a remedy belongs to the first of them."""

    def __init__(self, problems: list[Problem], *, remedy: Remedy | None = None) -> None:
        if not problems:
            raise ValueError("a RecipeError needs at least one problem")
        super().__init__("\n".join(str(problem) for problem in problems), remedy=remedy)
        self.problems = tuple(problems)


class OutputError(InputError):
    """The output exists already, cannot be written, or failed its verification."""


class OutputRefused(OutputError):
    """The machine cannot write, as with a full disk or a limit of the process; the path is not at fault."""

    exit_code = EXIT_FAILED


class OutputBusy(OutputError):
    """Another process is writing there now."""

    exit_code = EXIT_UNAVAILABLE


class CheckpointError(InputError):
    """A model folder or checkpoint that is missing, incomplete, of another model or of the wrong shape.

    Args:
        message: One line for every bad file.
        fields: For each line, the field that names its place: `model`, or a part such as `vae`; none if all
            are about one model. A part starts its line.

    Attributes:
        problems: Field and line, in order.
    """

    def __init__(
        self,
        message: str = "",
        *,
        argument: str = "",
        fields: Sequence[str] = (),
        remedy: Remedy | None = None,
    ) -> None:
        lines = message.splitlines()
        self.problems = tuple(zip(fields or ["model"] * len(lines), lines, strict=True))
        named = [line if field == "model" else f"{field}: {line}" for field, line in self.problems]
        super().__init__("\n".join(named) if fields else message, argument=argument, remedy=remedy)


class UnusableState(InputError):
    """A saved state that no run of this request can have been in."""


class DatasetError(InputError):
    """Training data that cannot be used."""


class BackendError(M2DError):
    """A backend could not do what was asked."""


class UnknownBackend(BackendError):
    """No backend of that name is installed."""

    exit_code = EXIT_BAD_INPUT


class BackendUnavailable(BackendError):
    """The backend exists, but not on this machine: a package, a device or a version is missing."""

    exit_code = EXIT_UNAVAILABLE


class ArtifactMissing(BackendUnavailable):
    """A backend runs exported graphs only, and none was exported for this request."""


class ArtifactRefused(BackendError):
    """An exported graph that is outdated, modified, or copied from another machine."""

    exit_code = EXIT_BAD_INPUT


class LayoutMismatch(BackendError):
    """The inputs of a prepared denoiser do not fit its layout."""

    exit_code = EXIT_BAD_INPUT


class ExportError(M2DError):
    """A graph could not be exported or did not match the eager model."""


class Interrupted(M2DError):
    """A signal stopped the run; it can be resumed."""

    exit_code = EXIT_RESUMABLE


def first_line(error: BaseException) -> str:
    """Return the first line of a library's message, or the error's name if it has none."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
