from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from m2d.errors import Interrupted
from m2d.progress import SilentReporter
from m2d.stop import StopRequest
from m2d.training import cache
from m2d.training.cache import EncodedStories, encode_stories


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "STORIES_PER_SHARD", 10)


class Warnings(SilentReporter):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def warn(self, message: str) -> None:
        self.texts.append(message)


def _encode(stories: Any, encoder: Any, root: Path, reporter: SilentReporter | None = None) -> EncodedStories:
    return encode_stories(
        stories, encoder, root=root, reporter=reporter or SilentReporter(), stop=StopRequest()
    )


def test_gathered_scenes_are_the_encoded_ones(fake_stories: Any, fake_encoder: Any, tmp_path: Path) -> None:
    encoded = _encode(fake_stories, fake_encoder, tmp_path)
    stories_BN, scenes_BN = torch.tensor([[0, 23], [11, 10]]), torch.tensor([[2, 0], [1, 1]])
    latents_BFCHW, embeds_BLD = encoded.gather(stories_BN, scenes_BN)
    assert latents_BFCHW.shape == (2, 4, 4, 4, 4)
    for sample in range(2):
        clips = [fake_stories.render(int(story)) for story in stories_BN[sample]]
        for slot, scene in enumerate(scenes_BN[sample].tolist()):
            frames = latents_BFCHW[sample, 2 * slot : 2 * slot + 2]
            expected = fake_encoder.encode_frames(clips[slot].frames_NPCHW[scene : scene + 1])[0]
            torch.testing.assert_close(frames, expected, atol=1e-3, rtol=0)
            embeds = fake_encoder.encode_prompts([clips[slot].prompts[scene]])[0]
            # float16 keeps 11 bits.
            torch.testing.assert_close(embeds_BLD[sample, 4 * slot : 4 * slot + 4], embeds, atol=2e-3, rtol=0)


def test_a_second_training_encodes_nothing(fake_stories: Any, fake_encoder: Any, tmp_path: Path) -> None:
    _encode(fake_stories, fake_encoder, tmp_path)
    fake_stories.rendered.clear()
    _encode(fake_stories, fake_encoder, tmp_path)
    assert fake_stories.rendered == []


def test_more_stories_keep_the_whole_shards_there_are(
    fake_stories: Any, fake_encoder: Any, tmp_path: Path
) -> None:
    _encode(fake_stories, fake_encoder, tmp_path)
    fake_stories.rendered.clear()
    fake_stories.num_stories = 35
    _encode(fake_stories, fake_encoder, tmp_path)
    assert fake_stories.rendered == list(range(20, 35))


@pytest.mark.parametrize("changed", ["stories", "encoder"])
def test_other_stories_or_weights_are_another_cache(
    fake_stories: Any, fake_encoder: Any, tmp_path: Path, changed: str
) -> None:
    first = _encode(fake_stories, fake_encoder, tmp_path)
    owner = fake_stories if changed == "stories" else fake_encoder
    owner.digest = "another"
    second = _encode(fake_stories, fake_encoder, tmp_path)
    assert first.digest != second.digest
    assert len(list(tmp_path.iterdir())) == 2


def test_a_stop_keeps_whole_shards_and_the_next_call_goes_on(
    fake_stories: Any, fake_encoder: Any, tmp_path: Path
) -> None:
    render = fake_stories.render

    def render_and_stop(index: int) -> Any:
        if index == 12:
            os.kill(os.getpid(), signal.SIGTERM)
        return render(index)

    fake_stories.render = render_and_stop
    with (
        StopRequest() as stop,
        pytest.raises(Interrupted, match="SIGTERM while encoding; finished shards are kept"),
    ):
        encode_stories(fake_stories, fake_encoder, root=tmp_path, reporter=SilentReporter(), stop=stop)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
    fake_stories.rendered.clear()
    _encode(fake_stories, fake_encoder, tmp_path)
    assert fake_stories.rendered == list(range(20, 24))


def test_a_damaged_shard_is_encoded_again_with_a_warning(
    fake_stories: Any, fake_encoder: Any, tmp_path: Path
) -> None:
    _encode(fake_stories, fake_encoder, tmp_path)
    shard = sorted(tmp_path.rglob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:100])
    fake_stories.rendered.clear()
    reporter = Warnings()
    _encode(fake_stories, fake_encoder, tmp_path, reporter)
    assert fake_stories.rendered == list(range(10, 20))
    assert "is corrupt" in reporter.texts[0]
