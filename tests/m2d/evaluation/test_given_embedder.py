"""Networks from a folder: tokens of prompts, ViCLIP's text encoder against transformers' CLIP, and scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from m2d.errors import CheckpointError, InputError
from m2d.evaluation.clip_texts import ClipTexts
from m2d.evaluation.consistency import cosines
from m2d.evaluation.given_embedder import GivenEmbedder, given_folder
from m2d.evaluation.viclip import ViCLIP, viclip_text_features
from tests.m2d.curation.test_networks import viclip_weights
from tests.m2d.evaluation.hub_folders import (
    hub_folder,
    text_weights,
    write_published_words,
    write_viclip,
    write_words,
)


@torch.inference_mode()
def clip_text_model(*, num_tokens: int, context: int) -> torch.nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    torch.manual_seed(3)
    config = CLIPTextConfig(
        vocab_size=num_tokens,
        hidden_size=128,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=context,
        projection_dim=24,
        eos_token_id=num_tokens - 1,
    )
    model: torch.nn.Module = CLIPTextModelWithProjection(config).eval()
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@torch.inference_mode()
def test_viclips_text_encoder_is_that_of_clip() -> None:
    model = clip_text_model(num_tokens=50, context=8)
    ids_BL = torch.randint(0, 48, (3, 8), generator=torch.Generator().manual_seed(1))
    ids_BL[:, -1] = 49
    ids_BL[1, 4:] = 49
    expected_BD = model(input_ids=ids_BL).text_embeds
    found_BD = viclip_text_features(text_weights(model), ids_BL)
    # Features reach 3; the bound is that of float32 sums in another order.
    assert float((found_BD - expected_BD).abs().max()) <= 1e-5


def test_a_prompt_is_divided_into_pieces_of_whole_sentences(tmp_path: Path) -> None:
    write_words(tmp_path)
    texts = ClipTexts(tmp_path, context=8)
    assert texts.pieces("AB  ab") == [[34, 34]]
    # Six tokens fit: `cd.` has three, so two sentences share a piece; a longer one is cut.
    assert [len(piece) for piece in texts.pieces("cd. cd. cd.")] == [6, 3]
    assert [len(piece) for piece in texts.pieces("cdefghij.")] == [6, 3]
    assert texts.pieces("") == [[]]


def test_the_mean_of_a_prompts_pieces_is_its_vector(tmp_path: Path) -> None:
    write_words(tmp_path)
    texts = ClipTexts(tmp_path, context=8)
    seen = []

    def encoder(ids_BL: torch.Tensor) -> torch.Tensor:
        seen.append(ids_BL)
        return torch.eye(4)[: len(ids_BL)] * 3

    found_ND = texts.encode(["ab", "cd. cd. cd."], encoder)
    assert seen[0].tolist()[0] == [38, 34, 39, 39, 39, 39, 39, 39]
    assert found_ND.tolist() == [[1, 0, 0, 0], [0, 0.5, 0.5, 0]]


def test_the_published_vocabulary_is_read(tmp_path: Path) -> None:
    write_published_words(tmp_path, merges=20)
    texts = ClipTexts(tmp_path, context=8)
    # 256 bytes, the 256 of words' ends, the merges in their order: `a a` is the first, `!` the first byte.
    assert texts.pieces("! aaa") == [[256, 512, 320]]
    file = tmp_path / "bpe_simple_vocab_16e6.txt.gz"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match=r"bpe_simple_vocab_16e6\.txt\.gz is cut off"):
        ClipTexts(tmp_path, context=8)
    file.write_bytes(b"no gzip")
    with pytest.raises(CheckpointError, match="holds no tokenizer of CLIP"):
        ClipTexts(tmp_path, context=8)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no tokenizer of CLIP .* which prompts need"):
        ClipTexts(tmp_path, context=8)


def test_scenes_and_prompts_are_compared_by_viclip(tmp_path: Path) -> None:
    model = clip_text_model(num_tokens=40, context=12)
    folder = write_viclip(tmp_path / "viclip", viclip_weights(), text_weights(model))
    with pytest.raises(CheckpointError, match="holds no tokenizer of CLIP"):
        GivenEmbedder("viclip", folder, has_prompts=True)
    write_words(folder)
    embedder = GivenEmbedder("viclip", folder, has_prompts=True)
    prompts = ["ab cd", "ef gh. ab", "op"]
    texts_ND = ViCLIP(folder, has_texts=True).encode(prompts)
    features = {"viclip": texts_ND * 5}
    match_NN = embedder.match(features, prompts)
    assert np.allclose(np.diag(match_NN), 1)
    assert np.abs(match_NN - np.eye(3)).max() > 0.01
    assert np.allclose(match_NN, cosines(embedder.embeddings(features), texts_ND))


@pytest.mark.parametrize(("name", "width"), [("dino", 16), ("videomae", 16)])
def test_a_network_without_a_text_encoder_knows_no_prompts(tmp_path: Path, name: str, width: int) -> None:
    embedder = GivenEmbedder(name, hub_folder(name, tmp_path / name), has_prompts=True)
    network = embedder.extractors[name]
    draw = np.random.Generator(np.random.Philox(key=[5, 0]))
    frames = [draw.integers(0, 256, (30, 40, 3), dtype=np.uint8) for _ in network.picks(20)]
    prepared = [network.prepare(frame) for frame in frames]
    vector = network.extract(prepared)
    assert vector.shape == (width,)
    if name == "videomae":
        assert len(frames) == 4
        assert not np.allclose(vector, network.extract(prepared[::-1]))
    match_NN = embedder.match({name: np.stack([vector, vector])}, ["a", "b"])
    assert np.isnan(match_NN).all()


def test_the_folder_of_a_network_has_to_be_given() -> None:
    with pytest.raises(InputError, match=r"--embedder-model: clip needs a folder"):
        given_folder("clip", None, field="--embedder-model")
    with pytest.raises(InputError, match=r"--embedder-model: 'no/where' is no folder"):
        given_folder("clip", "no/where", field="--embedder-model")
