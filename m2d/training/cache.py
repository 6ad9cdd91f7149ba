"""Latents and prompt embeddings of rendered stories, encoded once and kept on disk.

Owns the shards: their key, their encoding and reading them back. A shard is complete or absent, so an
interrupted encoding resumes where it stopped. The key changes with the stories, VAE, text encoder or size.
"""

# B batch, S stories, N scenes, P pixel frames, F latent frames, C channels, H W height and width,
# L text tokens, D text width

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import save
from torch import Tensor

from m2d.files import write_bytes
from m2d.model.checkpoint import load_tensors
from m2d.progress import Reporter
from m2d.puppet.dataset import PuppetStories
from m2d.stop import StopRequest
from m2d.training.frozen import FrozenParts

STORIES_PER_SHARD = 128
_FORMAT = "m2d.latents/1"


class StoryLatents(Protocol):
    """Encoded stories, in memory or encoded on demand."""

    @property
    def digest(self) -> str:
        """Digest of everything that `gather` may return."""

    @property
    def num_stories(self) -> int:
        """Total number of stories, including held-out ones."""

    @property
    def scene_counts(self) -> Sequence[int]:
        """Scenes of every story."""

    @property
    def buckets(self) -> Sequence[int]:
        """Size of every story, by its place among the recipe's sizes."""

    @property
    def empty_embeds_LD(self) -> Tensor:
        """Embedding of the empty prompt, float32."""

    def first_held_out(self, count: int) -> int:
        """Index of the first held-out story if `count` stories are held out; `num_stories` for 0."""

    def gather(self, stories_BN: Tensor, scenes_BN: Tensor, *, epoch: int = 0) -> tuple[Tensor, Tensor]:
        """Collect scenes: latents (B, N*F, C, H, W) and prompt embeddings (B, N*L, D), float32."""

    def expect(self, stories_BN: Tensor, scenes_BN: Tensor, *, epoch: int = 0) -> None:
        """Announce the scenes of the next `gather`, so that they can be prepared in the background."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedStories:
    """Encoded rendered stories, memory-mapped; implements `StoryLatents`.

    A shard has the latents SNFCHW and prompt embeddings SNLD of `STORIES_PER_SHARD` stories, float16.
    """

    digest: str
    shards: tuple[tuple[Tensor, Tensor], ...]
    empty_embeds_LD: Tensor
    num_stories: int
    num_scenes: int

    @property
    def scene_counts(self) -> tuple[int, ...]:
        """Scenes of every story."""
        return (self.num_scenes,) * self.num_stories

    @property
    def buckets(self) -> tuple[int, ...]:
        """Size of every story: all have one."""
        return (0,) * self.num_stories

    def first_held_out(self, count: int) -> int:
        """Index of the first of the last `count` stories."""
        return self.num_stories - count

    def expect(self, stories_BN: Tensor, scenes_BN: Tensor, *, epoch: int = 0) -> None:
        """Do nothing: all stories are in memory."""

    def gather(self, stories_BN: Tensor, scenes_BN: Tensor, *, epoch: int = 0) -> tuple[Tensor, Tensor]:
        """Collect scenes; see `StoryLatents`."""
        # Every scene is one clip, the same in every epoch.
        del epoch
        latents, embeds = [], []
        for story, scene in zip(stories_BN.flatten().tolist(), scenes_BN.flatten().tolist(), strict=True):
            shard, row = divmod(story, STORIES_PER_SHARD)
            latents.append(self.shards[shard][0][row, scene])
            embeds.append(self.shards[shard][1][row, scene])
        return gathered(latents, embeds, batch_size=len(stories_BN))


def gathered(latents: list[Tensor], embeds: list[Tensor], *, batch_size: int) -> tuple[Tensor, Tensor]:
    """Join the scenes of a batch, in order: latents (B, N*F, C, H, W) and embeddings (B, N*L, D), float32."""
    latents_BFCHW = torch.cat(latents).view(batch_size, -1, *latents[0].shape[1:])
    embeds_BLD = torch.cat(embeds).view(batch_size, -1, embeds[0].shape[-1])
    return latents_BFCHW.float(), embeds_BLD.float()


def encode_stories(
    source: PuppetStories, encoder: FrozenParts, *, root: Path, reporter: Reporter, stop: StopRequest
) -> EncodedStories:
    """Encode the shards that are missing, then open them all.

    Args:
        root: Folder of all caches; this cache is the folder below it that is named by the key.

    Raises:
        Interrupted: A stop was requested; complete shards stay, and the next call resumes after them.
        OutputError: The cache cannot be written.
    """
    digest = hashlib.sha256("\n".join((_FORMAT, source.digest, encoder.digest)).encode()).hexdigest()
    folder = root / digest[:24]
    folder.mkdir(parents=True, exist_ok=True)
    firsts = range(0, source.num_stories, STORIES_PER_SHARD)
    spans = [range(first, min(first + STORIES_PER_SHARD, source.num_stories)) for first in firsts]
    paths = {folder / f"stories-{span.start:06d}-{span.stop:06d}.safetensors": span for span in spans}
    missing = {path: span for path, span in paths.items() if not _is_sound(path, reporter)}
    if missing:
        reporter.note(f"encoding {sum(map(len, missing.values()))} stories once into {folder}")
        with reporter.stage("encode stories", total=sum(map(len, missing.values()))) as progress:
            for path, span in missing.items():
                stop.check(
                    f"while encoding; finished shards are kept in {folder}: run the same command again"
                )
                _write_shard(path, source, encoder, span)
                progress.advance(len(span))
    return EncodedStories(
        digest=digest,
        shards=tuple(_read_shard(path) for path in paths),
        empty_embeds_LD=encoder.encode_prompts([""])[0].half().float(),
        num_stories=source.num_stories,
        num_scenes=source.num_scenes,
    )


def _write_shard(path: Path, source: PuppetStories, encoder: FrozenParts, stories: range) -> None:
    clips = source.render_batch(stories)
    frames_BPCHW = torch.cat([clip.frames_NPCHW for clip in clips])
    prompts = [prompt for clip in clips for prompt in clip.prompts]
    latents_BFCHW = encoder.encode_frames(frames_BPCHW).half().contiguous()
    embeds_BLD = encoder.encode_prompts(prompts).half().contiguous()
    tensors = {
        "latents": latents_BFCHW.view(len(stories), source.num_scenes, *latents_BFCHW.shape[1:]),
        "embeds": embeds_BLD.view(len(stories), source.num_scenes, *embeds_BLD.shape[1:]),
    }
    write_bytes(path, save(tensors))


def _read_shard(path: Path) -> tuple[Tensor, Tensor]:
    tensors = load_tensors(path)
    return tensors["latents"], tensors["embeds"]


def _is_sound(path: Path, reporter: Reporter) -> bool:
    """Whether a shard exists and can be read; warn if it is corrupt."""
    if not path.exists():
        return False
    try:
        _read_shard(path)
    except (KeyError, OSError) as error:
        reporter.warn(f"{path}: is corrupt ({error}); encoding it again")
        return False
    return True
