# SPDX-License-Identifier: Apache-2.0
"""Tokenizers of encoders, made from a few lines: as BERT's, as RoBERTa's, T5's; and a decoder's without template."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

LINES = [
    "The painter Nina lives in Rome. Where does Nina live? (1990) it's a test, isn't it?",
    "On Monday Tom sold a red bicycle in Vienna; he was unhappy about the unbelievable price of 12.50.",
    "a quick brown fox jumps over the lazy dog again and again and again",
]


def bert() -> PreTrainedTokenizerFast:
    """WordPiece, lower case, [CLS] A [SEP] B [SEP] with token types 0 and 1; control characters are dropped."""
    raw = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer(lowercase=True)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    raw.train_from_iterator(
        LINES, trainers.WordPieceTrainer(vocab_size=90, special_tokens=special, show_progress=False)
    )
    ends = [(name, raw.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    words = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=raw, mask_token="[MASK]", model_input_names=names, **words)


def roberta() -> PreTrainedTokenizerFast:
    """Byte-level, <s> A </s></s> B </s>, no token types."""
    raw = _bytes(["<s>", "<pad>", "</s>", "<unk>"])
    raw.post_processor = processors.RobertaProcessing(
        ("</s>", raw.token_to_id("</s>")), ("<s>", raw.token_to_id("<s>")), trim_offsets=True
    )
    words = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, model_input_names=["input_ids", "attention_mask"], **words)


def t5() -> PreTrainedTokenizerFast:
    """As T5's: A </s>, and nothing before it."""
    raw = _bytes(["<pad>", "</s>", "<unk>"])
    raw.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", raw.token_to_id("</s>"))]
    )
    names = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>", pad_token="<pad>", model_input_names=names)


def gpt() -> PreTrainedTokenizerFast:
    """As GPT-2's: byte-level, no token around a text and none between two."""
    raw = _bytes(["<|endoftext|>"])
    raw.post_processor = processors.ByteLevel(trim_offsets=True)
    names = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|endoftext|>", model_input_names=names)


def _bytes(special: list[str]) -> Tokenizer:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator(LINES, trainer)
    return raw
