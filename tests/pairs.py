# SPDX-License-Identifier: Apache-2.0
"""Tiny random encoder-decoders and hand-made rows of sources and targets for tests."""

from __future__ import annotations

import copy
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.types import Segment, Tree

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from transformers import PreTrainedModel

WORDS = {"vocab_size": 60, "pad_token_id": 0, "decoder_start_token_id": 0, "eos_token_id": 1}
T5: dict[str, Any] = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "initializer_factor": 1.0}
T5 |= {"dropout_rate": 0.0, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 16} | WORDS
GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
BART: dict[str, Any] = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "max_position_embeddings": 64}
BART |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
BART |= {
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "init_std": 0.2,
    "forced_eos_token_id": None,
}
BART |= {"vocab_size": 60, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
# Name in docs/seq2seq.md -> model type and settings.
PROVEN: dict[str, tuple[str, dict[str, Any]]] = {
    "T5": ("t5", T5),
    "T5 1.1, Flan-T5": ("t5", T5 | GATED),
    "T5, uneven stacks": ("t5", T5 | {"num_layers": 3, "num_decoder_layers": 1}),
    "mT5": ("mt5", T5 | GATED),
    "UMT5": ("umt5", T5 | GATED),
    "BART": ("bart", BART),
    "mBART": ("mbart", BART),
    "Pegasus": ("pegasus", BART | {"scale_embedding": True}),
    "Marian": ("marian", BART),
    "M2M100, NLLB": ("m2m_100", BART),
    "BlenderBot": ("blenderbot", BART),
    "BlenderBot, small": ("blenderbot-small", BART),
    "PLBart": ("plbart", BART),
}


def tiny_pairs(name: str) -> PreTrainedModel:
    """A fresh copy of one family's model, the same numbers each time."""
    return copy.deepcopy(_made(name))


@cache
def _made(name: str) -> PreTrainedModel:
    """Norms, biases and the bias of BART's logits are drawn at random too."""
    import torch
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    kind, settings = PROVEN[name]
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(kind, **settings), dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
            if (bias := getattr(model, "final_logits_bias", None)) is not None:
                bias.copy_(torch.randn_like(bias))
    return model.eval()


def pair(source: Sequence[int], *targets: Sequence[int]) -> Tree:
    """One row: a source and its targets, whose tokens are all scored."""
    ids = [np.array(some, np.int32) for some in (source, *targets)]
    segments = tuple(Segment(ids=some, scored=np.full(len(some), place > 0)) for place, some in enumerate(ids))
    return Tree(segments=segments, parents=(-1, *[0] * len(targets)))


def save_words(folder: Path, texts: Iterable[str], *, begins: bool = False) -> int:
    """Train a tokenizer of whole words and write it; T5's template (text eos), or BART's (bos text eos).

    Returns:
        Its number of words.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<pad>", "</s>", "<unk>", "<s>"]
    made.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=special, vocab_size=2000))
    template = "<s> $A </s>" if begins else "$A </s>"
    made.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("<s>", 3), ("</s>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "bos_token": "<s>" if begins else None}
    words = PreTrainedTokenizerFast(tokenizer_object=made, **names)
    words.save_pretrained(folder)
    return len(words)


def some_pairs(many: int, seed: int = 0, longest: int = 12) -> list[Tree]:
    """Rows of random tokens that a tiny vocabulary holds; each source and target ends with token 2."""
    random = np.random.default_rng(seed)
    lengths = random.integers(1, longest, (many, 2))
    return [pair(*([*random.integers(3, 60, length).tolist(), 2] for length in own)) for own in lengths]
