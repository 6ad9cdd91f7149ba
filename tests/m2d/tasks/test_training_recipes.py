"""What a training recipe says in its header is what `m2d train --plan` says, and fits the card it names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from m2d.errors import RecipeError
from m2d.geometry import SceneGeometry
from m2d.recipe.loader import load_document, parse_document
from m2d.tasks.train import plan_needs
from m2d.tasks.training_recipe import load_training_recipe, naming_places
from m2d.training.datasets import rendered_stories
from m2d.training.needs import TrainingNeeds
from m2d.training.recipe import TrainingRecipe
from m2d.training.resume import FREE_FIELDS, WARNED_FIELDS
from m2d.training.validation import check_stories

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "recipes" / "training"
PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
GIB = 2**30
# Of a card's memory: the rest is for the allocator's gaps, kernels' working memory and CUDA itself.
LARGEST_SHARE = 0.85
ON_GPUS = sorted(
    path for path in FOLDER.glob("*.yaml") if re.search(r"^device: cuda$", path.read_text(), re.M)
)

SMALL = """\
title: one step
stage: base
model: builtin:puppet
init: builtin:puppet
video: {num_frames: 9, height: 64, width: 64, fps: 8}
num_scenes: 1
steps: 1
batch_size: 1
data: {source: clips, held_out: 0}
optimizer: {name: adamw, lr: 1.0e-4}
"""


class Promise(NamedTuple):
    """What a header says."""

    num_cards: int
    card_gib: int
    options: str
    figures: dict[str, str]
    flops: str


def promise_of(recipe: Path) -> Promise:
    lines = [line[1:].strip() for line in recipe.read_text(encoding="ascii").splitlines() if line[:1] == "#"]
    header = " ".join(lines)
    card = re.search(r"(?:one (\d+) GB GPU|(\d+) GPUs of (\d+) GB)\. `--plan(.*?)` says: ", header)
    assert card is not None, header
    names = ("weights", "gradients", "optimizer", "average", "activations", "together")
    figures = re.search(", ".join(rf"{name} ([\d.]+)" for name in names) + " GiB", header)
    flops = re.search(r"; ([\d.]+ [PT]FLOP) a step\.", header)
    assert figures is not None, header
    assert flops is not None, header
    return Promise(
        num_cards=int(card[2] or 1),
        card_gib=int(card[1] or card[3]),
        options=card[4].strip(),
        figures=dict(zip(names, figures.groups(), strict=True)),
        flops=flops[1],
    )


def needs_of(recipe: Path, promise: Promise) -> TrainingNeeds:
    if promise.num_cards == 1:
        assert promise.options == ""
        return plan_needs(load_training_recipe(recipe))
    assert promise.options == f"--devices {promise.num_cards} --strategy fsdp2"
    return plan_needs(load_training_recipe(recipe), num_devices=promise.num_cards, strategy="fsdp2")


def test_there_are_recipes_for_every_card() -> None:
    names = {path.stem for path in ON_GPUS}
    assert names == {
        "puppet-large",
        "puppet-sft-last",
        *(f"cogvideox-{size}-lora-{card}gb" for size in ("2b", "5b") for card in (24, 48, 80)),
        *(f"cogvideox-5b-{stage}" for stage in ("pretrain", "sft")),
    }


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(path, marks=[] if path.stem.endswith(("24gb", "large")) else pytest.mark.long)
        for path in ON_GPUS
    ],
    ids=lambda path: path.stem,
)
def test_a_recipe_needs_what_its_header_says_and_fits_the_card_it_names(recipe: Path) -> None:
    promise = promise_of(recipe)
    needs = needs_of(recipe, promise)
    memory = needs.memory
    sizes = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "average": memory.average,
        "activations": memory.activations,
        "together": memory.total,
    }
    assert promise.figures == {name: f"{size_bytes / GIB:.2f}" for name, size_bytes in sizes.items()}
    scale, unit = (1e15, "PFLOP") if needs.flops_per_step > 1e14 else (1e12, "TFLOP")
    assert promise.flops == f"{needs.flops_per_step / scale:.2f} {unit}"
    assert memory.total <= LARGEST_SHARE * promise.card_gib * GIB


def test_the_page_on_training_says_what_the_headers_say() -> None:
    told = re.findall(r"^\| `([\w-]+)\.yaml` \| (\d) of (\d+) GB \| ([\d.]+) \|$", PAGE, re.M)
    promises = {path.stem: promise_of(path) for path in ON_GPUS}
    assert {name: (int(count), int(card), total) for name, count, card, total in told} == {
        name: (promise.num_cards, promise.card_gib, promise.figures["together"])
        for name, promise in promises.items()
    }


@pytest.mark.parametrize(
    "recipe",
    # All start from `base`, which has a budget of its own.
    sorted(path for path in (ROOT / "recipes" / "paper").glob("*.yaml") if path.stem != "base"),
    ids=lambda path: path.stem,
)
def test_a_study_of_the_paper_is_a_recipe_with_one_budget(recipe: Path) -> None:
    loaded = load_document(recipe, TrainingRecipe)
    masks = load_document(recipe.with_name("masks.yaml"), TrainingRecipe)
    same = ("data", "video", "steps", "batch_size", "optimizer", "schedule", "seed")
    assert [getattr(loaded, name) for name in same] == [getattr(masks, name) for name in same]


def test_the_page_on_training_begins_with_a_correct_recipe() -> None:
    text = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)[0]
    recipe = parse_document(text, TrainingRecipe, name="training.md").value
    assert recipe.data.source == "data/sft.json"


@pytest.mark.parametrize("field", [*FREE_FIELDS, *WARNED_FIELDS])
def test_the_page_on_training_names_every_field_that_a_resume_may_change(field: str) -> None:
    # The sizes of a new transformer go with `init`.
    assert field == "transformer" or f"`{field}`" in PAGE.split("## Stop and resume")[1]


@pytest.mark.parametrize("recipe", ON_GPUS, ids=lambda path: path.stem)
def test_a_header_gives_the_command_for_its_own_recipe(recipe: Path) -> None:
    text = recipe.read_text(encoding="ascii")
    stage = re.search(r"^stage: (\w+)$", text, re.M)
    assert stage is not None
    assert f"--stage {stage[1]} recipes/training/{recipe.name} --out runs/{recipe.stem}\n" in text
    assert ("accelerate launch" in text) == (promise_of(recipe).num_cards > 1)


def test_half_of_the_stories_that_teach_changing_places_keep_one_setting() -> None:
    data = load_document(FOLDER / "puppet-places.yaml", TrainingRecipe).data
    size = SceneGeometry(
        num_frames=5,
        height=32,
        width=32,
        num_latent_frames=2,
        latent_height=8,
        latent_width=8,
        tokens_per_frame=16,
    )
    opened, plain = (
        rendered_stories(each, size) for each in (data, data.model_copy(update={"changing": 0.0}))
    )
    settings = [len({prompt.split(".")[0] for prompt in opened.render(index).prompts}) for index in range(40)]
    assert 10 < settings.count(1) < 30
    assert opened.digest != plain.digest


def test_only_stories_of_the_theatre_can_be_asked_to_change() -> None:
    text = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)[0].replace("{source:", "{changing: 0.5, source:")
    with pytest.raises(RecipeError, match="changing: is for the stories of builtin:puppet"):
        parse_document(text, TrainingRecipe, name="training.md")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("num_frames: 9", "num_frames: 10", r"r.yaml:5:21: video.num_frames: 10 is not 2k\+1; use 9 or 11$"),
        (
            "fps: 8",
            "fps: 8, buckets: [{num_frames: 9, height: 64, width: 65}]",
            r"r.yaml:5:\d+: video.buckets\[0\].width: 65 is not a positive multiple of 16; use 64 or 80$",
        ),
        (
            "fps: 8",
            "fps: 8, buckets: [{num_frames: 9, height: 64, width: 64}]",
            r"r.yaml:5:\d+: video.buckets: ",
        ),
        ("steps: 1", "steps: 1\nmask: nothing", r"r.yaml:8:7: mask: 'nothing' is not known; use one of "),
    ],
)
def test_what_the_model_refuses_is_told_with_file_line_and_field(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(SMALL.replace(old, new))
    with pytest.raises(RecipeError, match=message), naming_places(recipe):
        plan_needs(load_training_recipe(recipe))


def test_stories_of_validation_films_are_read_before_anything_else(tmp_path: Path) -> None:
    recipe, story = tmp_path / "r.yaml", tmp_path / "story.yaml"
    recipe.write_text(f"{SMALL}validation:\n  stories: [{story}]\n")
    missing = r"r.yaml:12:13: validation.stories\[0\]: .*: no such file; paths start"
    with pytest.raises(RecipeError, match=missing), naming_places(recipe):
        check_stories(load_training_recipe(recipe))
    story.write_text("title: t\n")
    with pytest.raises(RecipeError, match=r"story.yaml:1:1: "):
        check_stories(load_training_recipe(recipe))
