# SPDX-License-Identifier: Apache-2.0
"""Pairs of tokens that attention computes: told by a configuration as by the model itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, T5Config

from luthier.core.types import Segment, Tree
from luthier.kernels.forest import plant
from luthier.models.costs import pairs_read, reading_of, seen_pairs

SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 9}
CASES = [
    (LlamaConfig(**SMALL), LlamaForCausalLM, 3 * 4 // 2 + 2 * 3 // 2 + 2 * 3),
    (BertConfig(**SMALL), BertModel, 3**2 + 2**2),
    (T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=9), None, 3**2 + 2 * 3 // 2 + 2 * 3),
]


@pytest.mark.parametrize(("config", "kind", "pairs"), CASES, ids=["past", "both ways", "source"])
def test_a_configuration_tells_what_a_model_sees(config, kind, pairs):
    segments = tuple(Segment(ids=np.zeros(n, np.int32), scored=np.zeros(n, np.bool_)) for n in (3, 2))
    forest = plant([Tree(segments=segments, parents=(-1, 0))])
    with torch.device("meta"):
        model = AutoModelForSeq2SeqLM.from_config(config) if kind is None else kind(config)
    assert pairs_read(forest, reading_of(config)) == seen_pairs(model, forest) == pairs
