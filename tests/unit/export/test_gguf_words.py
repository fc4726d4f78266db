# SPDX-License-Identifier: Apache-2.0
"""How text is split has a name in llama.cpp; SentencePiece's BPE becomes tokens with scores that merge the same."""

from __future__ import annotations

from itertools import pairwise

import pytest
from tests.tiny import tiny
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from luthier.core.errors import ModelError
from luthier.export.forms._gguf_words import add_words, split_name

gguf = pytest.importorskip("gguf")

QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ({"type": "Sequence", "pretokenizers": [SPLIT | {"pattern": {"Regex": QWEN}}, BYTES]}, "qwen2"),
        (
            {
                "type": "Sequence",
                "pretokenizers": [SPLIT | {"pattern": {"Regex": QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")}}, BYTES],
            },
            "llama-bpe",
        ),
        ({"type": "Sequence", "pretokenizers": [{"type": "Digits"}, BYTES | {"use_regex": True}]}, "smollm"),
        (BYTES | {"use_regex": True}, "gpt-2"),
    ],
)
def test_names_of_splits(told, name):
    assert split_name(told) == name


def test_an_unknown_split_is_refused():
    with pytest.raises(ModelError, match=r"pre=NAME"):
        split_name({"type": "Whitespace"})


def sentencepiece() -> PreTrainedTokenizerFast:
    """A BPE with bytes, as transformers makes one of a SentencePiece model."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abcdet", "▁a", "ab", "▁ab", "bc"]
    vocab = {word: place for place, word in enumerate(words)}
    merges = [("▁", "a"), ("a", "b"), ("▁a", "b"), ("b", "c")]
    raw = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def test_sentencepiece(tmp_path):
    tokenizer, file = sentencepiece(), tmp_path / "words.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    add_words(writer, tokenizer, tiny("llama"), len(tokenizer), None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    fields = gguf.GGUFReader(file).fields
    tokens, kinds, scores = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "token_type", "scores"))
    assert fields["tokenizer.ggml.model"].contents() == "llama"
    assert fields["tokenizer.ggml.add_space_prefix"].contents() is True
    kind = dict(zip(tokens, kinds, strict=True))
    assert [kind[word] for word in ("<unk>", "<s>", "<0x00>", "ab")] == [
        gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.BYTE, gguf.TokenType.NORMAL
    ]  # fmt: skip
    rank = dict(zip(tokens, scores, strict=True))
    assert [rank[word] for word in ("▁a", "ab", "▁ab", "bc", "t")] == [0, -1, -2, -3, -4]
    for text in ("ab cd", "abc", " a  b", "zebra ü", "bcbc"):
        assert merged(text, dict(zip(tokens, range(len(tokens)), strict=True)), rank) == tokenizer(text)["input_ids"]


def merged(text: str, places: dict[str, int], scores: dict[str, float]) -> list[int]:
    """SentencePiece's algorithm as llama.cpp has it: the neighbours with the highest score merge first."""
    symbols = list("▁" + text.replace(" ", "▁"))
    while True:
        pairs = [(scores[a + b], -i) for i, (a, b) in enumerate(pairwise(symbols)) if a + b in scores]
        if not pairs:
            break
        i = -max(pairs)[1]
        symbols[i : i + 2] = ["".join(symbols[i : i + 2])]
    found: list[int] = []
    for symbol in symbols:
        found += [places[symbol]] if symbol in places else [places[f"<0x{byte:02X}>"] for byte in symbol.encode()]
    return found


def test_wordpieces_are_refused(tmp_path):
    raw = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]")
    with pytest.raises(ModelError, match="a tokenizer of the kind WordPiece"):
        add_words(gguf.GGUFWriter(tmp_path / "x.gguf", "llama"), tokenizer, tiny("llama"), 2, None)
