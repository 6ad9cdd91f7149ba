"""Stories of a video dataset, encoded before the training or sample by sample during it.

Owns the path from a draw to latents and embeddings. `m2d.data.story_library` chooses the frames of a clip and
the processes of `m2d.data.decoder_pool` decode them; clips are encoded here one by one, so the latents of a
clip depend on nothing else.
"""

# B batch, N scenes, P pixel frames, F latent frames, C channels, H W height and width, L tokens, D width

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from torch import Tensor

from m2d.data.decode import Broken, read_clip
from m2d.data.decoder_pool import DecoderPool
from m2d.data.rejects import FILE, check_share, write_rejects
from m2d.data.story_library import Clip, StoryLibrary
from m2d.model.pixels import from_pixels
from m2d.progress import Reporter
from m2d.stop import StopRequest
from m2d.training.cache import gathered
from m2d.training.content_store import ContentStore, content_key
from m2d.training.frozen import FrozenParts
from m2d.training.recipe import DataRecipe
from m2d.video.treatment import READING

_KEPT = "while encoding; finished clips are kept: run the same command again"


class EncodedClips:
    """The encoded stories of a video dataset; implements `StoryLatents`."""

    def __init__(
        self,
        library: StoryLibrary,
        encoder: FrozenParts,
        store: ContentStore,
        pool: DecoderPool,
        *,
        data: DataRecipe,
        run: Path,
    ) -> None:
        """Encode the empty prompt only; `prepare` encodes the rest and takes the digest.

        Args:
            run: Run folder, which receives the list of rejected videos.
        """
        self._library = library
        self._encoder = encoder
        self._store = store
        self._pool = pool
        self._data = data
        self._run = run
        # One thread prepares the next batch while another may evaluate.
        self._lock = threading.RLock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encode") if data.workers else None
        self._expected: Future[object] | None = None
        self.num_stories = library.num_stories
        self._boundary = library.num_stories
        self.scene_counts, self.buckets = library.scene_counts, library.buckets
        self.empty_embeds_LD = self._embeds("").float()
        self.digest = ""

    def first_held_out(self, count: int) -> int:
        """Index of the first held-out story, as `prepare` found it; the recipe decides the count."""
        assert count == self._data.held_out
        return self._boundary

    def gather(self, stories_BN: Tensor, scenes_BN: Tensor, *, epoch: int = 0) -> tuple[Tensor, Tensor]:
        """Collect scenes; see `StoryLatents`. The epoch selects one of the clips of a shot.

        Raises:
            DatasetError: More videos are broken than the recipe allows.
        """
        if self._expected is not None:
            # Raise errors of the background thread here, where the batch is requested.
            self._expected.result()
            self._expected = None
        with self._lock:
            clips, latents = self._encoded(stories_BN, scenes_BN, epoch=epoch)
            embeds = [self._embeds(clip.shot.caption) for clip in clips]
        return gathered(latents, embeds, batch_size=len(stories_BN))

    def expect(self, stories_BN: Tensor, scenes_BN: Tensor, *, epoch: int = 0) -> None:
        """Encode the clips of the next `gather` in the background; without workers, do nothing."""
        if self._thread is not None:
            self._expected = self._thread.submit(self._warm, stories_BN, scenes_BN, epoch)

    def prepare(self, *, reporter: Reporter, stop: StopRequest) -> None:
        """Encode all captions and, unless every epoch takes new clips, all clips.

        Raises:
            Interrupted: A stop was requested; encoded clips and captions stay.
            DatasetError: More videos are broken than the recipe allows.
        """
        self.check()
        captions = list(dict.fromkeys(shot.caption for shot in self._library.shots()))
        with reporter.stage("encode captions", total=len(captions)) as progress:
            for caption in captions:
                self._embeds(caption)
                progress.advance()
                stop.check(_KEPT)
        # The VAE needs the memory.
        self._encoder.text.release()
        clips = [clip for clip in self._all_clips() if not self._store.has(self._clip_key(clip))]
        by_request = {clip.request: clip for clip in clips}
        with reporter.stage("encode clips", total=len(by_request)) as progress:
            for request, frames_PHWC in self._pool.map(read_clip, by_request):
                if isinstance(frames_PHWC, Broken):
                    self._reject({request.video: frames_PHWC.reason})
                else:
                    self._encode(by_request[request], frames_PHWC)
                progress.advance()
                stop.check(_KEPT)
        # Only now is it known which videos can be read.
        self._boundary = self._library.first_held_out(self._data.held_out)
        encoder = self._encoder
        parts = (self._library.digest, encoder.vae_digest, encoder.text_digest, self._data.variants)
        self.digest = hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()

    def check(self) -> None:
        """Write the list of rejected videos. Raises: as `check_share`."""
        write_rejects(self._run, self._library.rejects)
        check_share(
            self._library.broken,
            num_videos=self._library.num_videos,
            largest_share=self._data.max_rejected,
            listed_in=self._run / FILE,
        )

    def close(self) -> None:
        """End the decoding processes and the background thread."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
        self._pool.close()

    def _warm(self, stories_BN: Tensor, scenes_BN: Tensor, epoch: int) -> None:
        with self._lock:
            self._encoded(stories_BN, scenes_BN, epoch=epoch)

    def _all_clips(self) -> list[Clip]:
        return [
            self._library.clip(story, scene, epoch=epoch)
            for epoch in range(self._data.variants)
            for story, count in enumerate(self.scene_counts)
            for scene in range(count)
            if self._library.is_sound(story, scene)
        ]

    def _encoded(
        self, stories_BN: Tensor, scenes_BN: Tensor, *, epoch: int
    ) -> tuple[list[Clip], list[Tensor]]:
        """Return the clips of a batch, broken ones replaced, and their latents."""
        ready: dict[str, Tensor] = {}
        while True:
            clips = self._resolved(stories_BN, scenes_BN, epoch=epoch)
            keys = [self._clip_key(clip) for clip in clips]
            wanted = dict(zip(keys, clips, strict=True))
            for key in wanted.keys() - ready.keys():
                found = self._store.get(key)
                if found is not None:
                    ready[key] = found
            missing = {clip.request: key for key, clip in wanted.items() if key not in ready}
            if not missing:
                return clips, [ready[key] for key in keys]
            broken = {}
            for request, frames_PHWC in self._pool.map(read_clip, missing):
                if isinstance(frames_PHWC, Broken):
                    broken[request.video] = frames_PHWC.reason
                else:
                    key = missing[request]
                    ready[key] = self._encode(wanted[key], frames_PHWC)
            if broken:
                self._reject(broken)

    def _resolved(self, stories_BN: Tensor, scenes_BN: Tensor, *, epoch: int) -> list[Clip]:
        if self._data.variants:
            epoch %= self._data.variants
        boundary = self._boundary
        clips = []
        for stories_N, scenes_N in zip(stories_BN.tolist(), scenes_BN.tolist(), strict=True):
            is_held_out = stories_N[0] >= boundary
            slots = self._library.resolve(
                stories_N,
                scenes_N,
                # Held-out stories never replace a broken training story.
                story_range=(boundary, self.num_stories) if is_held_out else (0, boundary),
            )
            clips += [self._library.clip(story, scene, epoch=epoch) for story, scene in slots]
        return clips

    def _encode(self, clip: Clip, frames_PHWC: np.ndarray) -> Tensor:
        latents_FCHW = self._encoder.encode_frames(from_pixels(frames_PHWC)[None])[0].half()
        self._store.put(self._clip_key(clip), latents_FCHW, on_disk=self._data.variants > 0)
        return latents_FCHW

    def _embeds(self, caption: str) -> Tensor:
        # One caption at a time: other captions in the batch would change the last bits.
        key = content_key("caption", caption, self._encoder.text_digest)
        embeds_LD = self._store.get(key)
        if embeds_LD is None:
            embeds_LD = self._encoder.encode_prompts([caption])[0].half()
            self._store.put(key, embeds_LD)
        return embeds_LD

    def _clip_key(self, clip: Clip) -> str:
        request = clip.request
        how = (request.size.height, request.size.width, request.size.fit)
        return content_key("clip", clip.sha256, request.frames, how, READING, self._encoder.vae_digest)

    def _reject(self, broken: Mapping[Path, str]) -> None:
        for video, reason in broken.items():
            self._library.reject(video, reason)
        self.check()
