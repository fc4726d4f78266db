# SPDX-License-Identifier: Apache-2.0
"""Tiny random encoders of every family that was tried, for each task: folders, models and texts for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModel

from luthier.core.types import Segment, Tree
from luthier.kernels.forest import plant
from luthier.models import load_model
from luthier.recipe import Model

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from luthier.core.tasks import Task
    from luthier.kernels.forest import Forest

# Weights are large enough that every token matters; no family has more positions than half the forest's tokens.
COMMON: dict[str, Any] = {
    "vocab_size": 120,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 22,
    "initializer_range": 0.2,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "cls_token_id": 0,
    "sep_token_id": 2,
}
COMMON |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # a forward in training mode is exact
DISTIL = {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4, "dropout": 0.0, "attention_dropout": 0.0}
WINDOWS = {"local_attention": 6, "global_attn_every_n_layers": 2, "num_hidden_layers": 3}
SMALL = {"embedding_size": 16}

TASKS: tuple[Task, ...] = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")
# Name in docs/models.md -> model type, settings, and the tasks that transformers has no class for.
PROVEN: dict[str, tuple[str, dict[str, Any], tuple[Task, ...]]] = {
    "BERT": ("bert", {}, ()),
    "RoBERTa": ("roberta", {"type_vocab_size": 1}, ()),
    "XLM-RoBERTa": ("xlm-roberta", {"type_vocab_size": 1}, ()),
    "CamemBERT": ("camembert", {"type_vocab_size": 1}, ()),
    "RoBERTa with norms before": ("roberta-prelayernorm", {"type_vocab_size": 1}, ()),
    "X-MOD": ("xmod", {"default_language": "en_XX", "type_vocab_size": 1}, ()),
    "Data2Vec (text)": ("data2vec-text", {"type_vocab_size": 1}, ()),
    "DistilBERT": ("distilbert", DISTIL, ()),
    "ELECTRA": ("electra", SMALL, ()),
    "ALBERT": ("albert", SMALL | {"classifier_dropout_prob": 0.0}, ()),
    "ERNIE": ("ernie", {}, ()),
    "ModernBERT": ("modernbert", WINDOWS, ()),
    "ModernBERT, means": ("modernbert", WINDOWS | {"classifier_pooling": "mean"}, ()),
    "GTE": ("gte", {}, ("QUESTION_ANS",)),
    "Nomic BERT": ("nomic_bert", {}, ("QUESTION_ANS",)),
    "EuroBERT": ("eurobert", {"num_key_value_heads": 2, "classifier_pooling": "bos"}, ("QUESTION_ANS",)),
}
MASK = "a layer computes with its attention mask"
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "DeBERTa": ("deberta", {}, "none of its layers asks for an attention mask"),
    "DeBERTa v2 and v3": ("deberta-v2", {}, "none of its layers asks for an attention mask"),
    "MPNet": ("mpnet", {}, MASK),
    "RoFormer": ("roformer", {}, MASK),
    "RemBERT": ("rembert", {"input_embedding_size": 16, "output_embedding_size": 16}, MASK),
    "Megatron BERT": ("megatron-bert", {}, MASK),
    "BigBird": ("big_bird", {}, MASK),
    "MobileBERT": ("mobilebert", SMALL | {"true_hidden_size": 32, "intra_bottleneck_size": 32}, "a forest differs"),
}


def folder_of(place: Path, name: str) -> Path:
    """The family's base model as a folder, the same numbers each time."""
    kind, settings = (PROVEN.get(name) or REFUSED[name])[:2]
    folder = place / name.replace(" ", "-").replace(",", "")
    if not folder.exists():
        with torch.random.fork_rng():
            torch.manual_seed(3)
            model = AutoModel.from_config(AutoConfig.for_model(kind, **(COMMON | settings)))
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.ndim == 1:
                        parameter.add_(0.1 * torch.randn_like(parameter))
        model.save_pretrained(folder)
    return folder


def encoder(folder: Path, task: Task, **words: Any) -> PreTrainedModel:
    """The folder's model for a task, with a drawn head of three values where the task has one, float32."""
    labels = {"num_labels": 3} if task in ("SEQ_CLS", "TOKEN_CLS") else {}
    words = {"say": lambda _: None} | labels | words
    return load_model(Model(model_name_or_path=str(folder)), torch.float32, task=task, **words).eval()


def texts(lengths: tuple[int, ...] = (7, 1, 9, 12), parts: int = 1) -> Forest:
    """Random texts, one a tree, their second halves the second part where they have two."""
    random, trees = np.random.default_rng(0), []
    for length in lengths:
        ids = random.integers(3, COMMON["vocab_size"], length).astype(np.int32)
        types = (np.arange(length) * parts // length).astype(np.int8)
        trees.append(Tree(segments=(Segment(ids=ids, scored=np.zeros(length, np.bool_), types=types),)))
    return plant(trees)
