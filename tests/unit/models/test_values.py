# SPDX-License-Identifier: Apache-2.0
"""Where the value of a text is read: at its last token that does not pad, in a forest as in transformers."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.reward import base, reward
from tests.tiny import tiny
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertForSequenceClassification

from luthier.core.errors import DataError, ModelError
from luthier.core.types import Segment, Tree
from luthier.engine.flops import count_rates
from luthier.kernels.forest import plant
from luthier.methods import full, lora
from luthier.models import load_model, load_tokenizer, serving
from luthier.models.generate import generate
from luthier.models.probe import leak_size, prove_forest
from luthier.models.probe_many import shares_passes
from luthier.models.values import score_texts, segment_values, value_head, value_index
from luthier.planning.activations import bytes_per_token
from luthier.recipe import Model


def tree(*ids: list[int], parents: tuple[int, ...]) -> Tree:
    segments = tuple(Segment(ids=np.array(some, np.int32), scored=np.zeros(len(some), np.bool_)) for some in ids)
    return Tree(segments=segments, parents=parents)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    return reward(base(tmp_path_factory.mktemp("models") / "llama"))


# Padding (0) at the end, in the middle and at the start of segments, empty segments, chains of empty ones.
PADDED = [
    tree([5, 6, 7], [8, 9], [10, 0], [0, 0], [], parents=(-1, 0, 0, 0, 0)),
    tree([0, 4], [0], [], [3, 0, 2, 0], parents=(-1, 0, 1, 2)),
    tree([0, 0], [0], [9], parents=(-1, 0, 1)),
    tree([11, 0, 0, 12], parents=(-1,)),
]


def test_values_are_those_of_transformers_with_padding_anywhere(model):
    forest = plant(PADDED)
    with torch.no_grad():
        got = segment_values(model, forest)
    with serving(model):
        for segment in range(len(forest.parents)):
            chain = [*forest.ancestors(segment), segment]
            ids = torch.cat([forest.input_ids[forest.starts[i] : forest.starts[i + 1]] for i in chain])
            wanted = model(input_ids=ids[None], use_cache=False).logits[0, 0]
            assert abs(float(got[segment] - wanted)) <= 1e-5, (segment, ids.tolist())


def test_and_of_a_padded_batch_too(model):
    texts = [[5, 6, 7, 8, 9], [5, 6, 7], [11, 12]]
    padded = torch.tensor([text + [0] * (5 - len(text)) for text in texts])
    with serving(model):
        wanted = model(input_ids=padded, attention_mask=(padded != 0).long(), use_cache=False).logits[:, 0]
        got = segment_values(load_forest := copy_ready(model), plant([tree(text, parents=(-1,)) for text in texts]))
    assert load_forest is not model
    assert (got - wanted).abs().max() <= 1e-5


def copy_ready(model):
    """The same model on forests, while the first serves."""
    again = copy.deepcopy(model)
    again.set_attn_implementation("luthier")
    return again


def test_without_a_padding_token_it_is_the_last_token():
    forest = plant(PADDED[:2])
    assert value_index(forest, None).tolist() == [2, 4, 6, 8, 2, 10, 11, 11, 15]


def test_a_branch_without_tokens_has_no_value_and_no_gradient_of_its_own(model):
    forest = plant([tree([], [5, 6], [], parents=(-1, 0, 0)), tree([7], parents=(-1,))])
    values = segment_values(model, forest)
    assert [math.isnan(value) for value in values.tolist()] == [True, False, True, False]
    values[[1, 3]].sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert float(model.score.weight.grad.abs().max()) > 0
    model.zero_grad()


def test_several_values_stand_in_columns(tmp_path):
    model = reward(base(tmp_path / "llama"), num_labels=3)
    forest = plant([tree([5, 6], [7], parents=(-1, 0))])
    with torch.no_grad():
        got = segment_values(model, forest)
    assert got.shape == (2, 3)
    with serving(model):
        assert (got[1] - model(input_ids=torch.tensor([[5, 6, 7]]), use_cache=False).logits[0]).abs().max() <= 1e-5
    with pytest.raises(ModelError, match="3 values for each text"):
        score_texts(model, None, ["x"])


def test_values_are_float32_where_the_weights_are_bfloat16(model):
    short = copy.deepcopy(model).to(torch.bfloat16)
    forest = plant(PADDED)
    with torch.no_grad():
        values = segment_values(short, forest)
        assert values.dtype == torch.float32
        assert not torch.equal(values, values.bfloat16().float()), "rounded to bfloat16 on the way"


def test_a_model_of_words_has_no_values():
    words = tiny("llama")
    assert value_head(words) is None
    with pytest.raises(ModelError, match="a head of words"):
        segment_values(words, plant(PADDED))


def test_the_head_of_an_encoder_is_more_than_a_matrix_or_reads_the_first_token():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    bert = BertForSequenceClassification(BertConfig(vocab_size=40, num_labels=1, **sizes)).eval()
    with pytest.raises(ModelError):
        prove_forest(bert, "bert")


# ---------------------------------------------------------------- proof, memory, operations


def test_the_proof_runs_on_values_and_sees_a_leak(model, monkeypatch):
    assert prove_forest(model, "tiny") <= 1e-5
    assert leak_size(model) > 0.05
    from luthier.models import probe

    monkeypatch.setattr(probe, "outputs", lambda model, forest: segment_values(model, forest) + 0.01)
    with pytest.raises(ModelError, match="of a value"):
        prove_forest(model, "tiny")


def test_adapters_of_reward_models_do_not_share_passes(model):
    assert "head of values" in shares_passes(model)
    assert shares_passes(copy_ready(tiny("llama"))) is None


def test_memory_and_operations_are_counted(tiny_llama: Path):
    words = load_model(Model(model_name_or_path=str(tiny_llama)), torch.float32)
    full.apply(words, full.Config())
    model = reward(tiny_llama)
    full.apply(model, full.Config())
    rates = count_rates(model)
    assert rates.per_token == count_rates(words).per_token
    assert rates.per_scored == 0
    assert 0 < bytes_per_token(model) <= bytes_per_token(words)


# ---------------------------------------------------------------- texts


def test_texts_are_scored_as_transformers_scores_them(tiny_llama: Path):
    model, tokenizer = reward(tiny_llama), load_tokenizer(str(tiny_llama))
    chat = [{"role": "user", "content": "What is the capital of Peru?"}, {"role": "assistant", "content": "Lima."}]
    texts = ["Lima is the capital of Peru.", chat, "x"]
    values = score_texts(model, tokenizer, texts, batch_tokens=40)
    assert score_texts(model, tokenizer, texts) == pytest.approx(values, abs=1e-5)
    rendered = [t if isinstance(t, str) else tokenizer.apply_chat_template(t, tokenize=False) for t in texts]
    model.set_attn_implementation("sdpa")
    for text, value in zip(rendered, values, strict=True):
        with torch.no_grad():
            wanted = model(**tokenizer(text, return_tensors="pt")).logits[0, 0]
        assert value == pytest.approx(float(wanted), abs=1e-5)
    with pytest.raises(DataError, match="text 2"):
        score_texts(reward(tiny_llama), tokenizer, ["fine", ""])


def test_a_reward_model_does_not_generate(tiny_llama: Path):
    with pytest.raises(ModelError, match="its head gives values, not words"):
        generate(reward(tiny_llama), AutoTokenizer.from_pretrained(tiny_llama), ["Hello"])


# ---------------------------------------------------------------- methods


def test_words_of_target_modules_never_reach_the_head(tmp_path):
    model = reward(base(tmp_path / "llama"))
    trainable = lora.apply(model, lora.Config(r=4, target_modules="all-linear"))
    mine = [name for name in trainable.parameters() if name.startswith("score")]
    assert mine == ["score.weight"]
    assert type(model.score) is torch.nn.Linear
    before = model.score.weight.detach().clone()
    with torch.no_grad():
        model.score.weight.add_(1.0)
    with trainable.disabled():
        assert torch.equal(model.score.weight, before)


def test_a_head_among_the_targets_is_refused(tmp_path):
    model = reward(base(tmp_path / "llama"))
    with pytest.raises(Exception, match="the head, which always trains whole"):
        lora.apply(model, lora.Config(r=1, target_modules=["q_proj", "score"]))


def test_a_whole_run_saves_what_transformers_loads(tmp_path):
    model = reward(base(tmp_path / "tied", "tied"))
    trainable = full.apply(model, full.Config())
    (tmp_path / "model").mkdir()
    trainable.save(tmp_path / "model")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    assert plain.num_labels == 1
    ids = torch.arange(3, 20)[None]
    with serving(model), torch.no_grad():
        assert (plain(input_ids=ids).logits - model(input_ids=ids).logits).abs().max() <= 1e-5
    again = reward(tmp_path / "model")
    assert torch.equal(again.score.weight, model.score.weight)
