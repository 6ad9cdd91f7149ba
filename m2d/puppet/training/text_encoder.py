"""Training of the puppet theatre's text encoder, a small T5 encoder.

Every token learns the properties of the whole scene: linear heads classify all prompted properties at each
position, so the transformer can attend to any token. A second head classifies, from the first layer, the
clause that a token belongs to; without it, the assignment of hats to actors stayed random for a thousand
steps. The heads are not exported. Shapes: B captions, L tokens.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from m2d.puppet.captions import varied_caption
from m2d.puppet.clips import draw_clips
from m2d.puppet.labels import ABSENT, PROMPTED_CLASSES, class_labels
from m2d.puppet.tokenizer import build_tokenizer
from m2d.puppet.training.fitting import Fit, FitRecipe
from m2d.puppet.vocabulary import ACTORS, token_list

_HELD_OUT_SEED = 990_002
CLAUSE = "clause"
_NUM_CLAUSES = 1 + len(ACTORS)


class TextEncoderRecipe(FitRecipe):
    """Sizes of the encoder; `d_model` is the transformer's `text_embed_dim`."""

    d_model: int = Field(ge=8)
    d_kv: int = Field(ge=8)
    d_ff: int = Field(ge=8)
    num_layers: int = Field(ge=1)
    num_heads: int = Field(ge=1)
    max_text_tokens: int = Field(ge=8)
    batch_size: int = Field(ge=1)


class CaptionClassifier(nn.Module):
    """The text encoder with classification heads over every token."""

    def __init__(self, recipe: TextEncoderRecipe) -> None:
        """Build encoder and heads with random weights from the recipe's seed."""
        super().__init__()
        torch.manual_seed(recipe.seed)
        config = T5Config(
            vocab_size=len(token_list()),
            **recipe.model_dump(include={"d_model", "d_kv", "d_ff", "num_layers", "num_heads"}),
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            is_encoder_decoder=False,
            use_cache=False,
        )
        self.encoder = T5EncoderModel(config)
        self.head = nn.Linear(recipe.d_model, sum(PROMPTED_CLASSES.values()))
        self.clause_head = nn.Sequential(
            nn.LayerNorm(recipe.d_model), nn.Linear(recipe.d_model, _NUM_CLAUSES)
        )

    def forward(self, tokens_BL: Tensor) -> dict[str, Tensor]:
        """Return class scores of every token, shape (B, classes, L), per property and for its clause."""
        encoded = self.encoder(input_ids=tokens_BL, output_hidden_states=True)
        scores = (
            self.head(encoded.last_hidden_state).transpose(1, 2).split(list(PROMPTED_CLASSES.values()), dim=1)
        )
        clause = self.clause_head(encoded.hidden_states[1]).transpose(1, 2)
        return dict(zip(PROMPTED_CLASSES, scores, strict=True)) | {CLAUSE: clause}


class _Batch:
    """The captions of one step as tokens, with their labels."""

    def __init__(
        self, recipe: TextEncoderRecipe, tokenizer: PreTrainedTokenizerFast, *, seed: int, step: int
    ) -> None:
        clips = draw_clips(seed=seed, step=step, count=recipe.batch_size)
        draw = np.random.Generator(np.random.Philox(key=[seed, step]))
        captions = [varied_caption(clip.story, clip.scene, draw=draw) for clip in clips]
        encoded = tokenizer(
            captions, padding="max_length", max_length=recipe.max_text_tokens, return_tensors="pt"
        )
        self.tokens_BL: Tensor = encoded["input_ids"]
        self.labels = {name: label for name, label in class_labels(clips).items() if name in PROMPTED_CLASSES}
        self.clauses_BL = _clauses(self.tokens_BL)


def _clauses(tokens_BL: Tensor) -> Tensor:
    """Return per token the number of the last actor named before it (1 or 2), or 0 for none."""
    places_L = torch.arange(1, tokens_BL.shape[1] + 1)
    ids = [token_list().index(name.lower()) for name in ACTORS]
    last_ABL = torch.stack([((tokens_BL == id_) * places_L).cummax(1).values for id_ in ids])
    return torch.where(last_ABL.amax(0) > 0, last_ABL.argmax(0) + 1, 0)


def text_encoder_fit(recipe: TextEncoderRecipe, run: Path) -> Fit:
    """Return the text encoder's training, for `run_fit`."""
    tokenizer = build_tokenizer(max_text_tokens=recipe.max_text_tokens)
    model = CaptionClassifier(recipe)
    held_out = _Batch(recipe, tokenizer, seed=_HELD_OUT_SEED, step=0)

    def loss_at(step: int) -> Tensor:
        batch = _Batch(recipe, tokenizer, seed=recipe.seed, step=step)
        scores = model(batch.tokens_BL)
        losses = [
            functional.cross_entropy(scores[name], label[:, None].expand(-1, recipe.max_text_tokens))
            for name, label in batch.labels.items()
            if bool((label != ABSENT).any())
        ]
        clause_loss = functional.cross_entropy(scores[CLAUSE], batch.clauses_BL)
        return torch.stack(losses).mean() + clause_loss

    evaluate = partial(_token_accuracy, batch=held_out)
    return Fit(name="text encoder", model=model, loss_at=loss_at, evaluate=evaluate, run=run)


@torch.no_grad()
def _token_accuracy(model: nn.Module, batch: _Batch) -> dict[str, dict[str, float]]:
    """Return per property the share of tokens with the correct class."""
    accuracy = {}
    scores = model(batch.tokens_BL)
    for name, label in batch.labels.items():
        scores_BKL = scores[name]
        right = scores_BKL.argmax(1)[label != ABSENT] == label[label != ABSENT][:, None]
        accuracy[name] = round(float(right.float().mean()), 5)
    return {"accuracy": accuracy}
