"""Captions from a vision-language model on this computer: a folder in the layout of transformers.

Only classes of transformers are loaded, never code of the folder.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from m2d.curation.caption_requests import PaidAnswer
from m2d.curation.settings import CaptionSettings
from m2d.curation.stage_file import Outcome, StageFile, key_of
from m2d.errors import CheckpointError, InputError
from m2d.files import sha256_file
from m2d.tensor_files import read_header

_VERSION = "local/1"
_MOST_NEW_TOKENS = 1024
_DATA_URI = "data:image/jpeg;base64,"


class LocalCaptioner:
    """One model with the journal of its answers; decoding is greedy, so answers repeat."""

    def __init__(self, settings: CaptionSettings, journal: StageFile[PaidAnswer]) -> None:
        """Load the model onto a GPU if there is one.

        Raises:
            InputError: `caption.model` is no folder.
            CheckpointError: It holds no vision-language model with a chat template.
        """
        from transformers import AutoModelForImageTextToText, AutoProcessor

        folder = Path(settings.model)
        if not folder.is_dir():
            raise InputError(f"caption.model: {settings.model!r} is no folder; give that of a local model")
        given: dict[str, Any] = {"local_files_only": True}
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        weights = sorted(folder.glob("*.safetensors"))
        try:
            for path in weights:
                read_header(path)
            self._processor = AutoProcessor.from_pretrained(folder, **given)
            model, report = AutoModelForImageTextToText.from_pretrained(
                folder, use_safetensors=True, dtype="auto", output_loading_info=True, **given
            )
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            first = str(error).strip().splitlines()[0]
            raise CheckpointError(
                f"{folder}: cannot be loaded as a vision-language model: {first}"
            ) from error
        # transformers fills such weights with random numbers.
        lacking = sorted(str(each) for name in ("missing_keys", "mismatched_keys") for each in report[name])
        if lacking:
            raise CheckpointError(f"{folder}: lacks weights of its model: {lacking[0]}")
        if not getattr(self._processor, "chat_template", None):
            raise CheckpointError(f"{folder}: has no chat template; give a model that follows instructions")
        self._model = model.to(self._device).eval()
        self._journal, self._known = journal, journal.known()
        self._digests = [f"{path.name} {sha256_file(path)}" for path in weights]
        self.name = folder.resolve().name

    @property
    def identity(self) -> Sequence[str | None]:
        """The digests of the weights."""
        return self._digests

    @property
    def spent(self) -> float:
        """A local model costs nothing."""
        return 0.0

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()

    def ask(self, messages: Sequence[dict[str, Any]], count: int) -> PaidAnswer:
        """Return the answer to a conversation, from the journal if it was given before."""
        del count  # The prompt says it; no grammar enforces it.
        key = key_of(_VERSION, self._digests, list(messages))
        if key not in self._known:
            answer = PaidAnswer(text=self._generate(messages), cost=0.0)
            line = Outcome(key=key, place=self.name, outputs=(answer,))
            self._journal.append(line)
            self._known[key] = line
        return self._known[key].outputs[0]

    @torch.inference_mode()
    def _generate(self, messages: Sequence[dict[str, Any]]) -> str:
        inputs = self._processor.apply_chat_template(
            [{"role": each["role"], "content": _parts(each["content"])} for each in messages],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self._device, self._model.dtype)
        tokens = self._model.generate(**inputs, do_sample=False, max_new_tokens=_MOST_NEW_TOKENS)
        new = tokens[0, inputs["input_ids"].shape[1] :]
        return str(self._processor.decode(new, skip_special_tokens=True))


def _parts(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a message's content with pictures in the form of transformers."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [
        {"type": "image", "image": _picture(part["image_url"]["url"])}
        if part["type"] == "image_url"
        else part
        for part in content
    ]


def _picture(uri: str) -> Image.Image:
    data = base64.b64decode(uri.removeprefix(_DATA_URI))
    return Image.open(io.BytesIO(data)).convert("RGB")
