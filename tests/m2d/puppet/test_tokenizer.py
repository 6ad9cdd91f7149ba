from __future__ import annotations

from pathlib import Path

from m2d.model.tokenizer import read_tokenizer
from m2d.puppet.tokenizer import build_tokenizer
from m2d.puppet.vocabulary import END_TOKEN, KNOWN_WORDS, PAD_TOKEN, UNKNOWN_TOKEN, token_list


def test_every_known_word_is_one_token_of_its_own() -> None:
    tokenizer = build_tokenizer(max_text_tokens=36)
    ids = {word: tokenizer(word)["input_ids"] for word in KNOWN_WORDS}
    assert all(len(found) == 2 and found[1] == tokenizer.eos_token_id for found in ids.values())
    assert len({found[0] for found in ids.values()}) == len(KNOWN_WORDS)


def test_capitals_and_spaces_do_not_matter_and_punctuation_stands_alone() -> None:
    tokenizer = build_tokenizer(max_text_tokens=36)
    assert tokenizer("Actor1 (RED body)  waves.") == tokenizer("actor1 ( red body ) waves .")


def test_unknown_words_are_one_unknown_token_each() -> None:
    tokenizer = build_tokenizer(max_text_tokens=36)
    assert tokenizer("actor1 moonwalks")["input_ids"][1] == tokenizer.unk_token_id


def test_special_tokens_come_first() -> None:
    assert token_list()[:3] == (PAD_TOKEN, END_TOKEN, UNKNOWN_TOKEN)
    assert len(set(token_list())) == len(token_list())


def test_the_saved_tokenizer_is_read_back_without_transformers(tmp_path: Path) -> None:
    built = build_tokenizer(max_text_tokens=36)
    built.save_pretrained(tmp_path / "tokenizer")
    read = read_tokenizer(tmp_path, max_tokens=36)
    text = "Park at noon. Actor1 (round red body, wool cap) moonwalks."
    assert read.count_tokens(text) == len(built(text)["input_ids"])
