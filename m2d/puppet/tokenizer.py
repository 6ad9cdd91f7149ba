"""The puppet theatre's tokenizer: one token per word or punctuation mark, closed vocabulary.

Owns the mapping; transformers reads and writes it.
"""

from __future__ import annotations

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Punctuation, Sequence, WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from m2d.puppet.vocabulary import END_TOKEN, PAD_TOKEN, UNKNOWN_TOKEN, token_list


def build_tokenizer(*, max_text_tokens: int) -> PreTrainedTokenizerFast:
    """Return the tokenizer; texts end in `</s>` and have at most `max_text_tokens` tokens with it."""
    ids = {token: index for index, token in enumerate(token_list())}
    tokenizer = Tokenizer(WordLevel(ids, unk_token=UNKNOWN_TOKEN))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Sequence([WhitespaceSplit(), Punctuation()])
    tokenizer.post_processor = TemplateProcessing(
        single=f"$A {END_TOKEN}", special_tokens=[(END_TOKEN, ids[END_TOKEN])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD_TOKEN,
        eos_token=END_TOKEN,
        unk_token=UNKNOWN_TOKEN,
        model_max_length=max_text_tokens,
    )
