# SPDX-License-Identifier: Apache-2.0
"""What tests of advice share: facts of a model, rows and a machine, as they are or drawn at random."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from luthier.advise.facts import DataFacts, Facts, MachineFacts, ModelFacts

GB = 10**9
# Llama 3.1 8B, as `look_at_model` finds it.
MODEL = ModelFacts(
    name="llama-8b",
    parameters=8_030_261_248,
    hidden_size=4096,
    layers=32,
    vocabulary=128_256,
    tied=False,
    positions=131_072,
    linear=6_979_321_856,
    per_rank=2_621_440,
    smallest=1024,
    exclude=(),
    saved_lora=4_469_960,
    saved_full=4_500_000,
)
ROWS = DataFacts(
    rows=7_473, estimated=False, sampled=4096, mean=288.0, median=268, p95=492, p99=620, longest=887, tree=887
)
MACHINE = MachineFacts(device="cuda", memory=80 * GB, told="--memory", bf16=True)


def facts(
    *,
    model: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    machine: dict[str, Any] | None = None,
    **others: Any,
) -> Facts:
    """An 8B model, 7,473 rows and 80 GB, but for what is given; `others` are keys of `Facts` itself."""
    parts = {
        "model": replace(MODEL, **(model or {})),
        "data": replace(ROWS, **(data or {})),
        "machine": replace(MACHINE, **(machine or {})),
        "objective": "sft",
    }
    return Facts(**(parts | others))


@st.composite
def some_facts(draw: st.DrawFn) -> Facts:
    """Models of 1 M to 500 B parameters, 1 to 10 M rows, 10 MB to 1 TB."""
    layers, hidden = draw(st.integers(1, 120)), 64 * draw(st.integers(1, 256))
    linear = 12 * layers * hidden * hidden
    vocabulary = draw(st.sampled_from([256, 32_000, 128_256]))
    saved = layers * hidden * draw(st.integers(16, 60))
    model = {
        "parameters": linear + vocabulary * hidden,
        "linear": linear,
        "hidden_size": hidden,
        "layers": layers,
        "vocabulary": vocabulary,
        "per_rank": 18 * layers * hidden,
        "smallest": draw(st.sampled_from([8, 12, 64, hidden])),
        "saved_lora": saved,
        "saved_full": saved + hidden,
        "positions": draw(st.sampled_from([None, 100, 512, 8192])),
    }
    median = draw(st.integers(1, 4000))
    longest = median * draw(st.integers(1, 40))
    judged = draw(st.booleans())
    data = {
        "rows": draw(st.sampled_from([1, 7, 300, 5_000, 60_000, 300_000, 10_000_000])),
        "mean": median * 1.2,
        "median": median,
        "p95": min(2 * median, longest),
        "p99": min(3 * median, longest),
        "longest": longest,
        "tree": longest + (median if judged else 0),
        "judged": judged,
        "text": not judged and draw(st.booleans()),
    }
    machine = {
        "memory": draw(st.integers(10**7, 10**12)),
        "bf16": draw(st.booleans()),
        "device": draw(st.sampled_from(["cpu", "cuda"])),
        "quantizations": draw(st.sampled_from([(), ("nf4",)])),
    }
    objective = draw(st.sampled_from(["dpo", "ipo", "kto", "orpo", "cpo", "simpo", "reward"])) if judged else "sft"
    found = facts(model=model, data=data, machine=machine, objective=objective)
    return replace(found, data=None) if draw(st.integers(0, 9)) == 0 else found
