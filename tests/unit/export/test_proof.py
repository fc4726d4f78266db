# SPDX-License-Identifier: Apache-2.0
"""The numbers of a proof, against the formulas written out."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from tests.tiny import tiny

from luthier.core.errors import RunFailed
from luthier.export.proof import BOUNDS, MOST_NUMBERS, Comparison

ROWS = [[5, 9, 2, 44, 7], [1, 2, 3], [8]]


def _proof(trained, written, dtype=torch.float32, base=None, **keys):
    comparison = Comparison(ROWS, "rows", 60)
    comparison.remember(trained)
    if base is not None:
        comparison.measure_base(base)
    return comparison.prove(written, dtype=dtype, **keys)


def _shaken(size: float):
    model = copy.deepcopy(tiny("llama"))
    with torch.no_grad():
        model.lm_head.weight.add_(size * torch.randn_like(model.lm_head.weight))
    return model


def test_the_formulas():
    trained, written, base = tiny("llama"), _shaken(0.05), _shaken(0.5)
    proof = _proof(trained, written, base=base)
    with torch.no_grad():
        logits = {
            m: [model(torch.tensor([row])).logits[0].double() for row in ROWS[:2]]
            for m, model in enumerate((trained, written, base))
        }

    def kl(other: int) -> float:
        p, q = (torch.log_softmax(torch.cat(logits[m]), -1) for m in (0, other))
        return float((p.exp() * (p - q)).sum(-1).mean())

    def perplexity(m: int) -> float:
        loss = [
            torch.nn.functional.cross_entropy(z[:-1], torch.tensor(row[1:]), reduction="sum")
            for z, row in zip(logits[m], ROWS[:2], strict=True)
        ]
        return math.exp(float(sum(loss)) / 6)

    assert proof.tokens == 8
    assert proof.mean_kl == pytest.approx(kl(1), rel=1e-6)
    assert proof.adapter_kl == pytest.approx(kl(2), rel=1e-6)
    assert proof.perplexity_before == pytest.approx(perplexity(0), rel=1e-6)
    assert proof.perplexity_after == pytest.approx(perplexity(1), rel=1e-6)
    assert proof.max_logit_difference == pytest.approx(
        float((torch.cat(logits[0]) - torch.cat(logits[1])).abs().max()), rel=1e-6
    )
    assert proof.top1_agreement == float(
        (torch.cat(logits[0]).argmax(-1) == torch.cat(logits[1]).argmax(-1)).double().mean()
    )
    assert not proof.holds
    with pytest.raises(RunFailed, match=r"place: .*8 tokens compared \(rows\).*at most 1e-06 nats for float32"):
        proof.demand("place")


def test_a_model_is_itself():
    proof = _proof(tiny("llama"), tiny("llama"), base=_shaken(0.5))
    assert (proof.mean_kl, proof.max_logit_difference, proof.top1_agreement) == (0.0, 0.0, 1.0)
    assert proof.holds
    assert json.loads(json.dumps(proof.to_json()))["holds"] is True


@pytest.mark.parametrize("dtype", list(BOUNDS))
def test_each_type_has_its_bound(dtype):
    assert _proof(tiny("llama"), tiny("llama"), dtype).bound == BOUNDS[dtype]
    assert _proof(tiny("llama"), tiny("llama"), dtype, bound=0.5).bound == 0.5


def test_nothing_passes_that_is_no_number():
    broken = tiny("llama")
    with torch.no_grad():
        broken.lm_head.weight[0, 0] = float("nan")
    assert not _proof(tiny("llama"), broken, bound=math.inf).holds
    assert not _proof(broken, broken, bound=math.inf).holds


def test_a_change_below_noise_is_no_loss():
    """An adapter that moved nothing: the written model cannot be half way back."""
    assert _proof(tiny("llama"), tiny("llama"), base=tiny("llama")).holds


def test_memory_is_bounded():
    rows = [[1, 2, 3] * 100] * 50
    assert sum(map(len, Comparison(rows, "", 60).rows)) == 4096
    assert sum(map(len, Comparison(rows, "", 262_144).rows)) == MOST_NUMBERS // 262_144
