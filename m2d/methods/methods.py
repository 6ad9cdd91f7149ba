"""The comparison methods as changes of a recipe: mask, attention and how keyframes are made.

All run on the recipe's own model, steps, guidance and seeds. `keyframes` makes pictures; imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from m2d.errors import InputError
from m2d.recipe.schema import Recipe

Keyframes = Literal["consistent", "references"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """One way to make a film of a story.

    Attributes:
        title: As the table shows it.
        mask: Attention mask of the film.
        attention: The eager backend's option; see `m2d.model.attention_variants`.
        keyframes: How the picture that each scene starts from is made; None starts from noise.
        needs_training: Whether weights have to be trained for it, so that others show it as it is untrained.
    """

    title: str
    mask: str
    attention: str = "plain"
    keyframes: Keyframes | None = None
    needs_training: bool = False

    def recipe(self, story: Recipe) -> Recipe:
        """Return the story as this method makes it: mask and attention are replaced."""
        return varied(story, mask=self.mask, attention=self.attention)


METHODS = {
    "mask2dit": Method(title="Mask2DiT", mask="mask2dit"),
    "cogvideox": Method(title="CogVideoX, every scene alone", mask="isolated"),
    "prompt-relay": Method(title="Prompt Relay", mask="full", attention="prompt-relay"),
    "plain": Method(title="All prompts, no mask", mask="full"),
    "talc": Method(title="TALC", mask="talc", needs_training=True),
    "storydiffusion": Method(title="StoryDiffusion", mask="isolated", keyframes="consistent"),
    "videostudio": Method(title="VideoStudio", mask="isolated", keyframes="references", needs_training=True),
}
"""The methods by name, in the order of the table."""


def varied(story: Recipe, *, mask: str, attention: str = "plain") -> Recipe:
    """Return a recipe with another mask, and with an attention of the eager backend."""
    options = {name: value for name, value in story.backend.options.items() if name != "attention"}
    if attention != "plain":
        options["attention"] = attention
    backend = story.backend.model_copy(update={"options": options})
    return story.model_copy(update={"mask": mask, "backend": backend})


def chosen_methods(names: Sequence[str], *, has_image_model: bool = False) -> dict[str, Method]:
    """Return methods by name, each once, in the order of `METHODS`.

    Raises:
        InputError: An unknown method, or an image-to-video model that none of them uses.
    """
    unknown = [name for name in names if name not in METHODS]
    if unknown or not names:
        got = ", ".join(unknown) or "none"
        raise InputError(f"{got}; use some of {', '.join(METHODS)}", argument="methods")
    chosen = {name: method for name, method in METHODS.items() if name in names}
    if has_image_model and not any(method.keyframes for method in chosen.values()):
        drawing = " or ".join(name for name, method in METHODS.items() if method.keyframes)
        message = f"{', '.join(chosen)}: draw no keyframes that it could animate; add {drawing}"
        raise InputError(message, argument="image_model")
    return chosen
