from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.broken_videos import KINDS, turn_video, write_video
from m2d.errors import DatasetError, Remedy
from m2d.geometry import SceneGeometry
from m2d.progress import Reporter, SilentReporter
from m2d.puppet.dataset import PuppetStories
from m2d.puppet.dataset_files import RenderPlan
from m2d.stop import StopRequest
from m2d.tasks.render import render
from m2d.training.batches import BatchMaker, make_sampler
from m2d.training.cache import StoryLatents, encode_stories
from m2d.training.datasets import DataOfRun, open_stories
from m2d.training.frozen import FrozenParts, load_frozen
from m2d.training.recipe import TrainingRecipe
from tests.m2d.model.tiny_model import build_tiny_model
from tests.m2d.training.conftest import tiny_recipe

NUM_STORIES = 8
GEOMETRY = SceneGeometry(
    num_frames=9,
    height=32,
    width=32,
    num_latent_frames=3,
    latent_height=4,
    latent_width=4,
    tokens_per_frame=4,
)


class KeepingReporter(SilentReporter):
    """Keeps what it is given to show."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def warn(self, message: str, *, remedy: Remedy | None = None) -> None:
        del remedy
        self.warnings.append(message)


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> FrozenParts:
    folder = build_tiny_model(tmp_path_factory.mktemp("model"))
    return load_frozen(folder, max_text_tokens=40, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One set of videos, described in all three formats."""
    out = tmp_path_factory.mktemp("rendered")
    for file_format in ("jsonl", "json", "csv"):
        plan = RenderPlan(out=out, num_stories=NUM_STORIES, side=32, file_format=file_format)
        render(plan, SilentReporter())
    return out


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def _recipe(source: Path, stage: str = "sft", **data: Any) -> TrainingRecipe:
    return tiny_recipe(
        stage=stage,
        num_scenes=1 if stage == "base" else 3,
        objective={},
        data={"source": str(source), "held_out": 3, **data},
        video={"num_frames": 9, "height": 32, "width": 32, "fps": 8},
    )


@contextmanager
def _opened(
    recipe: TrainingRecipe,
    frozen: FrozenParts,
    cache: Path,
    run: Path,
    geometries: Sequence[SceneGeometry] = (GEOMETRY,),
    *,
    reporter: Reporter | None = None,
) -> Iterator[StoryLatents]:
    with open_stories(
        recipe,
        frozen,
        geometries,
        of_run=DataOfRun(caches=cache, folder=run, keeps_rejects=False),
        reporter=reporter or SilentReporter(),
        stop=StopRequest(),
    ) as stories:
        yield stories


def _batches(recipe: TrainingRecipe, stories: StoryLatents, *, steps: int) -> list[torch.Tensor]:
    sampler = make_sampler(recipe, stories, num_timesteps=1000, held_out=False)
    maker = BatchMaker(stories=stories, seed=1, purpose="noise", device=torch.device("cpu"))
    batches = []
    for step in range(steps):
        draw, after = sampler.draw(step), sampler.draw(step + 1)
        batch = maker.make(draw, step=step)
        stories.expect(after.stories_BN, after.scenes_BN, epoch=after.epoch)
        batches += [batch.latents_BFCHW, batch.prompt_embeds_BLD]
    return batches


def test_rendered_files_encode_to_what_the_theatre_itself_does(
    rendered: Path, frozen: FrozenParts, cache: Path, tmp_path: Path
) -> None:
    source = PuppetStories(num_stories=NUM_STORIES, seed=1, geometry=GEOMETRY)
    direct = encode_stories(source, frozen, root=tmp_path, reporter=SilentReporter(), stop=StopRequest())
    stories_BN = torch.arange(NUM_STORIES)[:, None].expand(-1, 3)
    scenes_BN = torch.arange(3).expand(NUM_STORIES, -1)
    expected, expected_embeds = direct.gather(stories_BN, scenes_BN)
    with _opened(_recipe(rendered / "stories.jsonl"), frozen, cache, tmp_path) as stories:
        latents, embeds = stories.gather(stories_BN, scenes_BN)
    # One prompt at a time against 24: the last bit of float16.
    torch.testing.assert_close(embeds, expected_embeds, atol=2e-3, rtol=2e-3)
    # Compression and scaling: within 5 % of the latents' own variance.
    assert float((latents - expected).square().mean() / expected.var()) < 0.05


@pytest.mark.parametrize("name", ["pretrain.csv", "sft.json", "stories.jsonl"])
def test_two_workers_give_the_batches_of_none_to_the_bit(
    name: str, rendered: Path, frozen: FrozenParts, tmp_path: Path
) -> None:
    batches = []
    # Five of nine frames: a clip may begin at any of five, and does so anew in every epoch.
    geometry = replace(GEOMETRY, num_frames=5)
    for workers in (0, 2):
        stage = "base" if name.endswith("csv") else "sft"
        recipe = _recipe(rendered / name, stage, variants=0, workers=workers)
        with _opened(recipe, frozen, tmp_path / str(workers), tmp_path, [geometry]) as stories:
            batches.append(_batches(recipe, stories, steps=3))
    for alone, ahead in zip(*batches, strict=True):
        assert torch.equal(alone, ahead)


def test_all_formats_and_both_ways_of_keeping_give_the_same_latents(
    rendered: Path, frozen: FrozenParts, cache: Path, tmp_path: Path
) -> None:
    found = []
    for name, variants in (("sft.json", 1), ("stories.jsonl", 1), ("stories.jsonl", 0)):
        recipe = _recipe(rendered / name, variants=variants)
        with _opened(recipe, frozen, cache, tmp_path) as stories:
            found.append(stories.gather(torch.tensor([[1, 1, 1]]), torch.tensor([[0, 1, 2]]))[0])
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_what_is_encoded_is_shared_by_stages_and_never_made_twice(
    rendered: Path, frozen: FrozenParts, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _opened(_recipe(rendered / "sft.json"), frozen, cache, tmp_path):
        pass
    monkeypatch.setattr(FrozenParts, "encode_frames", None)
    monkeypatch.setattr(FrozenParts, "encode_prompts", None)
    with _opened(_recipe(rendered / "pretrain.csv", "pretrain"), frozen, cache, tmp_path) as stories:
        stories.gather(torch.tensor([[0, 4, 5]]), torch.tensor([[0, 0, 0]]))


def test_the_text_encoder_is_gone_when_clips_are_encoded(
    rendered: Path, frozen: FrozenParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    was_there, encode = [], FrozenParts.encode_frames

    def watch(self: FrozenParts, frames_BPCHW: torch.Tensor) -> torch.Tensor:
        was_there.append(self.text.is_loaded)
        return encode(self, frames_BPCHW)

    monkeypatch.setattr(FrozenParts, "encode_frames", watch)
    frozen.text.encode(["park"])
    recipe = _recipe(rendered / "pretrain.csv", "base", num_stories=4)
    with _opened(recipe, frozen, tmp_path / "cache", tmp_path):
        assert was_there == [False] * 4


@pytest.fixture
def broken(tmp_path: Path, rendered: Path) -> Callable[..., Path]:
    """Copy the videos and break one of every kind asked for, each in a story of its own."""

    def copy(*kinds: str) -> Path:
        folder = tmp_path / "broken"
        (folder / "videos").mkdir(parents=True)
        for video in (rendered / "videos").iterdir():
            (folder / "videos" / video.name).write_bytes(video.read_bytes())
        for name in ("sft.json", "pretrain.csv"):
            (folder / name).write_text((rendered / name).read_text())
        for number, kind in enumerate(kinds):
            KINDS[kind](folder / "videos" / f"story-{number:06d}-scene-2.mp4", number)
        return folder

    return copy


def _rejected(run: Path) -> dict[str, dict[str, str]]:
    lines = [json.loads(line) for line in (run / "rejected.jsonl").read_text().splitlines()]
    return {Path(line["video"]).name: line for line in lines}


def test_broken_videos_are_listed_and_others_stand_in_for_them_alone(
    broken: Callable[..., Path], rendered: Path, frozen: FrozenParts, cache: Path, tmp_path: Path
) -> None:
    folder = broken("empty", "truncated", "mutated", "wrong-ending")
    stories_BN, scenes_BN = torch.tensor([[0, 0, 0], [4, 4, 4]]), torch.tensor([[0, 1, 2]] * 2)
    with _opened(_recipe(rendered / "sft.json"), frozen, cache, tmp_path) as stories:
        whole = stories.gather(stories_BN, scenes_BN)[0]
        sound = [stories.gather(torch.full((1, 3), story), scenes_BN[:1])[0][0] for story in range(5)]
    with _opened(_recipe(folder / "sft.json"), frozen, cache, tmp_path) as stories:
        latents = stories.gather(stories_BN, scenes_BN)[0]
        again = stories.gather(stories_BN, scenes_BN)[0]
    rejected = _rejected(tmp_path)
    assert sorted(rejected) == [f"story-{number:06d}-scene-2.mp4" for number in range(4)]
    assert {line["kind"] for line in rejected.values()} == {"broken"}
    assert all(line["reason"] and "sft.json:" in line["place"] for line in rejected.values())
    assert torch.equal(latents[1], whole[1])
    assert torch.equal(latents, again)
    # The only sound story among those trained on stands in: 0 to 3 are broken, 5 to 7 are held out.
    assert torch.equal(latents[0], sound[4])


def test_too_many_broken_videos_end_the_training_and_are_named(
    broken: Callable[..., Path], frozen: FrozenParts, cache: Path, tmp_path: Path
) -> None:
    recipe = _recipe(broken(*["empty"] * 6) / "sft.json", max_rejected=0.2)
    with (
        pytest.raises(
            DatasetError, match=r"(?s)6 of 24 videos cannot be used; at most 20%.*scene-2.mp4: has 0 b"
        ),
        _opened(recipe, frozen, cache, tmp_path),
    ):
        pass
    assert len(_rejected(tmp_path)) == 6


@pytest.mark.parametrize("name", ["sft.json", "pretrain.csv"])
def test_a_broken_held_out_story_is_replaced_by_the_story_before_it(
    name: str, broken: Callable[..., Path], frozen: FrozenParts, cache: Path, tmp_path: Path
) -> None:
    folder = broken()
    (folder / "videos" / f"story-{NUM_STORIES - 1:06d}-scene-3.mp4").write_bytes(b"")
    stage, num_scenes = ("sft", 3) if name == "sft.json" else ("base", 1)
    recipe = _recipe(folder / name, stage, held_out=1)
    with _opened(recipe, frozen, cache, tmp_path) as stories:
        # The last story cannot be read, so the one before it is held out.
        assert stories.first_held_out(1) == stories.num_stories - 2
        for held_out in (True, False):
            sampler = make_sampler(recipe, stories, num_timesteps=1000, held_out=held_out)
            draw = sampler.draw(0)
            assert draw.stories_BN.shape[1] == num_scenes
            assert bool((draw.stories_BN >= stories.num_stories - 2).all()) is held_out
            stories.gather(draw.stories_BN, draw.scenes_BN)


def test_a_dataset_that_is_broken_but_for_what_is_held_out_names_the_field(
    broken: Callable[..., Path], frozen: FrozenParts, cache: Path, tmp_path: Path
) -> None:
    recipe = _recipe(broken(*["empty"] * 5) / "sft.json", held_out=3)
    message = r"sft.json: data.held_out: 3 leaves no training stories: 3 stories can be read.*use less"
    with pytest.raises(DatasetError, match=message), _opened(recipe, frozen, cache, tmp_path):
        pass


def test_what_is_left_out_is_counted_and_shown_with_its_reason(
    broken: Callable[..., Path], frozen: FrozenParts, cache: Path, tmp_path: Path
) -> None:
    reporter = KeepingReporter()
    recipe = _recipe(broken("empty") / "sft.json")
    with _opened(recipe, frozen, cache, tmp_path, reporter=reporter):
        pass
    assert "without 1 of 24 videos, which cannot be read; see " in reporter.warnings[0]
    assert "story-000000-scene-2.mp4 has 0 bytes" in reporter.warnings[1]
    assert "trained without 1 of 24 videos" in reporter.notes[-1]


def test_unsuitable_shots_are_listed_and_do_not_count_as_broken(
    rendered: Path, frozen: FrozenParts, cache: Path, tmp_path: Path
) -> None:
    recipe = _recipe(rendered / "pretrain.csv", "base", sampling="official")
    with (
        pytest.raises(
            DatasetError,
            match=r"pretrain.csv: 0 stories can be read and suit the recipe; all .* in .*rejected.jsonl",
        ),
        _opened(recipe, frozen, cache, tmp_path),
    ):
        pass
    rejected = _rejected(tmp_path)
    assert len(rejected) == 24
    assert {line["kind"] for line in rejected.values()} == {"unsuitable"}
    assert "9 at stride 3 in the middle nine tenths need 30" in rejected["story-000000-scene-1.mp4"]["reason"]


def test_more_scenes_than_any_group_has_names_the_largest(
    rendered: Path, frozen: FrozenParts, cache: Path, tmp_path: Path
) -> None:
    with (
        pytest.raises(
            DatasetError, match=r"num_scenes: 3, but the largest shot group has 1 \(.*pretrain.csv:2\)"
        ),
        _opened(_recipe(rendered / "pretrain.csv", "sft"), frozen, cache, tmp_path),
    ):
        pass


def test_the_text_encoder_follows_the_precision_and_names_other_caches(frozen: FrozenParts) -> None:
    folder = frozen.text._folder
    half = load_frozen(folder, max_text_tokens=40, device=torch.device("cpu"), text_dtype=torch.bfloat16)
    expected, found = frozen.encode_prompts(["a red hat"]), half.encode_prompts(["a red hat"])
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)
    # bfloat16 keeps 8 bits; the encoder has two layers.
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)
    assert half.text_digest != frozen.text_digest
    assert half.vae_digest == frozen.vae_digest


def test_a_story_has_the_size_of_its_shape_and_its_shortest_shot(
    frozen: FrozenParts, cache: Path, tmp_path: Path
) -> None:
    # Shots: width, height and frames. The last group is turned upright, and is wide, too.
    groups = [[(32, 32, 30)] * 3, [(64, 32, 30)] * 3, [(64, 32, 30), (64, 32, 12), (64, 32, 30)]]
    groups += [[(32, 64, 30)] * 3]
    lines = []
    for number, shots in enumerate(groups):
        scenes = []
        for place, (width, height, num_frames) in enumerate(shots):
            name = f"{number}-{place}.mp4"
            write_video(tmp_path / name, num_frames=num_frames, width=width, height=height, seed=place)
            if number == len(groups) - 1:
                turn_video(tmp_path / name, degrees=90)
            scenes.append({"video": name, "caption": "Park at noon."})
        lines.append(json.dumps({"m2d": 1, "story": str(number), "scenes": scenes}))
    source = tmp_path / "stories.jsonl"
    source.write_text("\n".join(lines) + "\n")
    sizes = [(9, 32, 32), (9, 32, 64), (17, 32, 64)]
    buckets = [dict(zip(("num_frames", "height", "width"), size, strict=True)) for size in sizes[1:]]
    recipe = _recipe(source, held_out=0)
    recipe = recipe.model_copy(update={"video": recipe.video.model_copy(update={"buckets": buckets})})
    geometries = [
        replace(GEOMETRY, num_frames=frames, num_latent_frames=(frames - 1) // 4 + 1, width=width)
        for frames, _, width in sizes
    ]
    with _opened(recipe, frozen, cache, tmp_path, geometries) as stories:
        assert stories.buckets == (0, 2, 1, 2)
        for story, bucket in enumerate(stories.buckets):
            latents, _ = stories.gather(torch.full((1, 3), story), torch.arange(3)[None])
            frames, height, width = sizes[bucket]
            assert latents.shape[1] == 3 * ((frames - 1) // 4 + 1)
            assert latents.shape[3:] == (height // 4, width // 4)
