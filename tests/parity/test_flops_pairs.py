# SPDX-License-Identifier: Apache-2.0
"""Operations of encoder-decoders are counted as `torch.utils.flop_counter` counts them of transformers' own class."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.pairs import some_pairs, tiny_pairs
from torch.utils.flop_counter import FlopCounterMode

from luthier.core import registry
from luthier.engine.flops import count_rates
from luthier.engine.step import accumulate
from luthier.kernels.forest import plant
from luthier.models.costs import padding, seen_pairs
from luthier.objectives import sft

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]
SOURCE, TARGET = 17, 6
SEEN = SOURCE * SOURCE + TARGET * TARGET + SOURCE * TARGET  # what eager attention multiplies before masks


def by_torch(model: Any) -> int:
    """One forward and backward of one pair whose target is scored."""
    model.set_attn_implementation("eager")
    in_place = {torch.ops.aten.addmm_: lambda _, a, b, **__: 2 * a[0] * a[1] * b[1]}  # torch leaves it out
    source, target = torch.arange(3, 3 + SOURCE)[None], torch.arange(3, 3 + TARGET)[None]
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        model.train()(input_ids=source, labels=target, use_cache=False).loss.backward()
    return int(counter.get_total_flops())


CASES: list[tuple[str, dict[str, Any]]] = [
    ("full", {}),
    ("lora", {"r": 4}),
    ("lora", {"r": 4, "target_modules": ["lm_head"]}),
    ("lora", {"r": 4, "use_dora": True}),
    ("norm", {}),
    ("freeze", {"freeze_trainable_layers": 1}),
]


@pytest.mark.parametrize("family", ["T5", "T5 1.1, Flan-T5", "BART"])
@pytest.mark.parametrize(("method", "keys"), CASES)
def test_operations_are_torch_s(family: str, method: str, keys: dict[str, Any]) -> None:
    model = tiny_pairs(family)
    module = registry.get("methods", method)
    module.apply(model, module.Config(**keys))
    counted = count_rates(model).total(SOURCE + TARGET, TARGET, SEEN, 1)
    assert counted == pytest.approx(by_torch(model), rel=0.05)


@pytest.mark.parametrize("family", ["T5", "BART"])
def test_full_fine_tuning_to_the_last_operation(family: str) -> None:
    model = tiny_pairs(family)
    counted = count_rates(model).total(SOURCE + TARGET, TARGET, SEEN, 1)
    assert counted == by_torch(model)


def test_a_step_counts_pairs_and_padding() -> None:
    model, rows = tiny_pairs("T5"), some_pairs(7)
    result = accumulate(model, sft.bind(sft.Config()), [rows[:4], rows[4:]])
    sizes = [(len(tree.segments[0]), len(tree.segments[1])) for tree in rows]
    assert result.pairs == sum(s * s + s * t + t * (t + 1) // 2 for s, t in sizes)
    assert result.tokens == sum(s + t for s, t in sizes)
    assert result.padding == sum(padding(model, plant(some)) for some in (rows[:4], rows[4:])) > 0
    assert seen_pairs(model, plant(rows)) == result.pairs
