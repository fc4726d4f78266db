# SPDX-License-Identifier: Apache-2.0
"""A fast tokenizer as GGUF keeps it: tokens, their kinds, merges or scores, special tokens and the chat template.

    byte-level BPE (GPT-2, Llama 3, Qwen)    model "gpt2": merges, and llama.cpp's name of how text is split first
    BPE of SentencePiece (Llama 2, Mistral)  model "llama": a score for each token; a merge that comes first is higher

llama.cpp knows ways to split text by names and not by their expressions, so they are recognised here.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from luthier.core.errors import ModelError
from luthier.models.generate import stop_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# How these split text, as in their tokenizer.json -> llama.cpp's name of it.
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {
    (_WORDS + r"\p{N}" + _REST,): "qwen2",
    (_WORDS + r"\p{N}{1,3}" + _REST,): "llama-bpe",
    ("Digits", "GPT-2"): "smollm",
    (r"\d", "GPT-2"): "smollm",
    (r"\p{N}", "GPT-2"): "smollm",
    ("GPT-2",): "gpt-2",
}
_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def add_words(
    writer: Any, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, count: int, pre: str | None
) -> list[str]:
    """Write a tokenizer into a GGUF file.

    Args:
        writer: gguf's.
        tokenizer: A fast one.
        model: Whose end of turn is known.
        count: Words of its embedding; those without a token are filled up.
        pre: llama.cpp's name of how text is split, where the tokenizer does not tell it.

    Returns:
        Where llama.cpp gives a text other tokens all the same.

    Raises:
        ModelError: The tokenizer is of a kind that GGUF has no place for, or splits text in a way without a name.
    """
    told: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    bpe = told["model"]
    if bpe["type"] != "BPE":
        allowed = "BPE: byte-level as of GPT-2, or SentencePiece's with bytes as of Llama 2"
        raise ModelError("--to gguf", f"a tokenizer of the kind {bpe['type']}", allowed, "write it with --to merged")
    pieces = {place: word for word, place in bpe["vocab"].items()}
    added = {token["id"]: token for token in told["added_tokens"]}
    pieces |= {place: token["content"] for place, token in added.items()}
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in bpe["merges"]]
    sentencepiece = bool(bpe.get("byte_fallback"))
    if sentencepiece:
        writer.add_tokenizer_model("llama")
        writer.add_token_scores(_scores(pieces, merges, count))
        writer.add_add_space_prefix(_begins_with_space(told, tokenizer))
    else:
        if not merges:
            received = "a byte-level tokenizer without merges, which llama.cpp does not load"
            raise ModelError("--to gguf", received, "one with merges", "write it with --to merged")
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre or split_name(told["pre_tokenizer"]))
        writer.add_token_merges(merges)
    writer.add_token_list([pieces.get(place, f"[PAD{place}]") for place in range(count)])
    unknown = bpe.get("unk_token")
    kinds = [_kind(pieces.get(place), added.get(place), sentencepiece, unknown) for place in range(count)]
    writer.add_token_types(kinds)
    _add_special(writer, tokenizer, model)
    if template := tokenizer.chat_template:
        writer.add_chat_template(_GENERATION.sub("", template))
    return _otherwise(told, tokenizer)


def split_name(told: dict[str, Any] | None) -> str:
    """llama.cpp's name of the way in which a byte-level tokenizer splits text.

    Raises:
        ModelError: It has none that is known here.

    Example:
        >>> split_name({"type": "ByteLevel", "add_prefix_space": False})
        'gpt-2'
    """
    parts = () if told is None else tuple(told["pretokenizers"]) if told["type"] == "Sequence" else (told,)
    found = tuple(word for part in parts if (word := _split(part)) is not None)
    if found not in SPLITS:
        received = f"a tokenizer that splits text by {' then '.join(found) or 'nothing'}"
        fix = "look in llama.cpp's convert_hf_to_gguf.py for its name, and give it: pre=NAME"
        raise ModelError(
            "--to gguf", received, f"a way with a known name ({', '.join(sorted({*SPLITS.values()}))})", fix
        )
    return SPLITS[found]


def _split(part: dict[str, Any]) -> str | None:
    if part["type"] == "ByteLevel":
        return "GPT-2" if part.get("use_regex", True) else None
    if part["type"] == "Split":
        pattern = part["pattern"]
        return str(pattern.get("Regex", pattern.get("String")))
    return str(part["type"])


def _scores(pieces: dict[int, str], merges: list[str], count: int) -> list[float]:
    """Minus the rank of the first merge that makes a token: SentencePiece's own scores of BPE."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault(merge.replace(" ", ""), rank)
    last = float(len(merges))
    return [-float(ranks.get(pieces.get(place, ""), last)) for place in range(count)]


def _parts(told: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """What a normalizer or pre_tokenizer does, step by step."""
    whole: dict[str, Any] = told[kind] or {}
    parts: list[dict[str, Any]] = whole.get("normalizers" if kind == "normalizer" else "pretokenizers", [whole])
    return [part for part in parts if part]


def _begins_with_space(told: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether llama.cpp shall put a space before text: at its beginning, and behind every special token.

    Where the tokenizer puts one at the very beginning alone, a chat that begins with a special token has none at all.
    """
    schemes = [part.get("prepend_scheme") for part in _parts(told, "pre_tokenizer") if part["type"] == "Metaspace"]
    if any(part["type"] == "Prepend" for part in _parts(told, "normalizer")) or "always" in schemes:
        return True
    return "first" in schemes and not _chat_begins_specially(tokenizer)


def _chat_begins_specially(tokenizer: PreTrainedTokenizerBase) -> bool:
    from jinja2.exceptions import TemplateError

    if not tokenizer.chat_template:
        return False
    try:
        text = str(tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False))
    except (TemplateError, ValueError, TypeError):
        return False
    return text.startswith(tuple(tokenizer.all_special_tokens))


def _otherwise(told: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What llama.cpp has no way to do as this tokenizer does, measured beside it (docs/export.md)."""
    found = []
    kinds = sorted({part["type"] for part in _parts(told, "normalizer")} - {"Prepend", "Replace"})
    if kinds:
        found.append(f"llama.cpp does not change text before it is split ({', '.join(kinds)}), as this tokenizer does")
    schemes = [part.get("prepend_scheme") for part in _parts(told, "pre_tokenizer") if part["type"] == "Metaspace"]
    if "first" in schemes:
        kept = "no space at the beginning of a text" if _chat_begins_specially(tokenizer) else "a space behind them"
        found.append(f"this tokenizer puts a space at a text's beginning, none behind special tokens; llama.cpp {kept}")
    return found


def _kind(piece: str | None, added: dict[str, Any] | None, sentencepiece: bool, unknown: str | None) -> int:
    from gguf import TokenType

    if piece is None:
        return int(TokenType.UNUSED)
    if sentencepiece and piece == unknown:
        return int(TokenType.UNKNOWN)
    if added is not None:
        return int(TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED)
    return int(TokenType.BYTE if sentencepiece and _BYTE.fullmatch(piece) else TokenType.NORMAL)


def _add_special(writer: Any, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    for name, place in (
        ("bos", tokenizer.bos_token_id),
        ("eos", tokenizer.eos_token_id),
        ("unk", tokenizer.unk_token_id),
        ("pad", tokenizer.pad_token_id),
    ):
        if place is not None:
            getattr(writer, f"add_{name}_token_id")(int(place))
    turn = [place for place in stop_ids(model, tokenizer) if place != tokenizer.eos_token_id]
    if turn:
        writer.add_eot_token_id(turn[-1])
    ids: Any = tokenizer("a")["input_ids"]
    writer.add_add_bos_token(tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(tokenizer.eos_token_id is not None and ids[-1] == tokenizer.eos_token_id)
