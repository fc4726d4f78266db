# SPDX-License-Identifier: Apache-2.0
"""What the data layer needs to know of a tokenizer."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Protocol

from luthier.core.errors import DataError


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that is used here."""

    bos_token_id: int | None
    eos_token_id: int | None
    eos_token: Any
    bos_token: Any
    chat_template: Any
    added_tokens_decoder: dict[int, Any]
    special_tokens_map: dict[str, Any]
    model_max_length: int
    model_input_names: list[str]

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        """Render a conversation, or a list of them."""

    def get_chat_template(self, chat_template: str | None = None, tools: Any = None) -> str:
        """Return the template that is used where several are there."""

    def __call__(self, text: str, **options: Any) -> Any:
        """Encode one text."""


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Facts of a tokenizer.

    Attributes:
        backend: The Rust tokenizer; its batches run on all cores.
        bos: Id that begins a text, or None.
        eos: Id that ends a text, or None.
        ends: Ids that can end a turn: every added token that is not white space, such as ``<|im_end|>``.
        end_texts: The same as text, longest first.
        adds_bos: Whether the tokenizer puts BOS before a plain text on its own.
        starts: Ids that begin a text: BOS, and what the tokenizer puts first on its own ([CLS]).
        separates: Whether its template for two texts puts a token between them.
        tells_types: Whether its models are told which of two texts a token belongs to (`token_type_ids`).
        digest: Hash of all that changes how a text is encoded.
    """

    backend: Any
    bos: int | None
    eos: int | None
    ends: frozenset[int]
    end_texts: tuple[str, ...]
    adds_bos: bool
    starts: frozenset[int]
    separates: bool
    tells_types: bool
    digest: str

    def name(self, token: int | None) -> str:
        """Return a token as text, for messages."""
        return repr(self.backend.id_to_token(token)) if token is not None else "none"


def vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """Read the facts of a tokenizer.

    Raises:
        DataError: It is a slow (Python) tokenizer, which cannot say where in the text a token stands.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise DataError(
            f"tokenizer {type(tokenizer).__name__}",
            "is not a fast tokenizer",
            "one with a tokenizer.json: only those tell which characters a token covers",
            "save it as a fast one: AutoTokenizer.from_pretrained(FOLDER, use_fast=True).save_pretrained(NEW)",
        )
    # transformers sets these three anew in each of its own calls; the batches here go to the backend directly
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = bool(getattr(tokenizer, "split_special_tokens", False))
    added = {i: str(token.content) for i, token in tokenizer.added_tokens_decoder.items() if str(token.content).strip()}
    if tokenizer.eos_token_id is not None:
        added[tokenizer.eos_token_id] = str(tokenizer.eos_token)
    alone, two = backend.encode("a"), backend.encode("a", "b")
    start = alone.ids
    sides = two.sequence_ids
    between = sides[sides.index(0) : sides.index(1)] if 0 in sides and 1 in sides else []
    first = start[:1] if alone.special_tokens_mask[:1] == [1] else []
    names = list(getattr(tokenizer, "model_input_names", ()))
    facts = [backend.to_str(), sorted(tokenizer.special_tokens_map.items()), backend.encode_special_tokens, names]
    return Vocabulary(
        backend=backend,
        bos=tokenizer.bos_token_id,
        eos=tokenizer.eos_token_id,
        ends=frozenset(added),
        end_texts=tuple(sorted(added.values(), key=len, reverse=True)),
        adds_bos=len(start) > 1 and start[0] == tokenizer.bos_token_id,
        starts=frozenset(first if tokenizer.bos_token_id is None else [*first, tokenizer.bos_token_id]),
        separates=None in between,
        tells_types="token_type_ids" in names and any(two.type_ids),
        digest=hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest(),
    )
