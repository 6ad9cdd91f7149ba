import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece
import torch
from transformers import AutoTokenizer, T5Tokenizer

from m2d.errors import CheckpointError
from m2d.families.cogvideox.text import T5TextEncoder
from m2d.families.loading import load_text
from m2d.model.tokenizer import PromptTooLong, read_tokenizer
from tests.m2d.model.tiny_model import MAX_TEXT_TOKENS, TEXT_WIDTH

PROMPT = "Snowfield at dusk. Actor1 (round red body, yellow hat) walks right."


@pytest.fixture(scope="module")
def text(tiny_folder: Path) -> T5TextEncoder:
    return load_text(tiny_folder, device="cpu", dtype=torch.float32)


def test_ids_are_those_of_transformers_padded_to_the_full_length(tiny_folder: Path) -> None:
    tokenizer = read_tokenizer(tiny_folder, max_tokens=MAX_TEXT_TOKENS)
    theirs = AutoTokenizer.from_pretrained(tiny_folder / "tokenizer")
    for prompt in (PROMPT, "", "Actor2 juggles."):
        wanted = theirs(prompt, padding="max_length", max_length=MAX_TEXT_TOKENS, truncation=True).input_ids
        assert tokenizer.encode(prompt) == wanted


def test_embeddings_are_those_of_the_bare_encoder_without_a_mask(text: T5TextEncoder) -> None:
    embeds = text.encode([PROMPT, "", PROMPT])
    assert embeds.shape == (3, MAX_TEXT_TOKENS, TEXT_WIDTH)
    with torch.no_grad():
        wanted = text.model(input_ids=torch.tensor([text.tokenizer.encode(PROMPT)]))[0]
    torch.testing.assert_close(embeds[:1], wanted)
    torch.testing.assert_close(embeds[2], embeds[0])


def test_padding_is_seen_as_cogvideox_was_trained(text: T5TextEncoder) -> None:
    ids = torch.tensor([text.tokenizer.encode(PROMPT)])
    with torch.no_grad():
        masked = text.model(input_ids=ids, attention_mask=(ids != 0).long())[0]
    assert (text.encode([PROMPT]) - masked)[:, :5].abs().max() > 1e-4


def test_the_longest_prompt_fits_and_the_next_is_refused_with_counts(text: T5TextEncoder) -> None:
    longest = " ".join(["walks"] * (MAX_TEXT_TOKENS - 1))
    assert text.count_tokens(longest) == MAX_TEXT_TOKENS
    assert text.encode([longest]).shape[1] == MAX_TEXT_TOKENS
    with pytest.raises(PromptTooLong, match=r"'walks .*\.\.\.': 42 tokens.* at most 40; shorten it by 2"):
        text.encode(["a short one", f"{longest} right again"])


def test_no_prompts_are_an_error_of_the_caller(text: T5TextEncoder) -> None:
    with pytest.raises(ValueError, match="no prompts"):
        text.encode([])


def test_counting_tokens_imports_neither_torch_nor_transformers(tiny_folder: Path) -> None:
    program = (
        "import sys; from m2d.families.loading import load_tokenizer, resolve_model;"
        f"source = resolve_model({str(tiny_folder)!r}); print(load_tokenizer(source).count_tokens('waves'));"
        "print(sorted({'torch', 'transformers', 'diffusers'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["2", "[]"]


def test_a_sentencepiece_model_alone_gives_the_ids_of_transformers(tmp_path: Path) -> None:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    corpus = [f"{PROMPT} Story {number} of a red fox." for number in range(40)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus),
        model_prefix=str(folder / "spiece"),
        vocab_size=45,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    tokenizer = read_tokenizer(tmp_path, max_tokens=80)
    ids = tokenizer.encode(PROMPT)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    assert ids[: tokenizer.count_tokens(PROMPT)] == [*pieces.encode(PROMPT), 1]
    assert set(ids[tokenizer.count_tokens(PROMPT) :]) == {0}
    vocabulary = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(pieces.get_piece_size())]
    theirs = T5Tokenizer(vocab=vocabulary, extra_ids=0)
    assert ids == theirs(PROMPT, padding="max_length", max_length=80).input_ids


@pytest.mark.parametrize("name", ["tokenizer.json", "spiece.model"])
def test_a_damaged_tokenizer_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / name).write_text("{}nonsense")
    with pytest.raises(CheckpointError, match=f"{name}: not a tokenizer"):
        read_tokenizer(tmp_path, max_tokens=8)
