# SPDX-License-Identifier: Apache-2.0
"""The conclusion follows from the numbers, whatever they are, and always names its condition."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from luthier.study.conclude import data_curve, methods, rank_curve, rate_sweep, sentence

CONDITION = "At the same alpha (16) and learning rate (0.001), with one seed, "
LIMITS = "the gap between LoRA and rsLoRA shrank once the learning rate was tuned for each method"


def first(result) -> str:
    lines = methods(result)
    assert lines[0].startswith(CONDITION)
    assert LIMITS in lines[-1]
    assert "`luthier demo --full`" in lines[-1]
    return lines[0]


def shares(r16: float, r64: float, full: float) -> dict[str, float]:
    return {"lora-r16": 0.4, "lora-r64": 0.4, "rslora-r16": 0.4 + r16, "rslora-r64": 0.4 + r64, "full": full}


@pytest.mark.parametrize(
    ("r16", "r64", "said"),
    [
        (0.1, 0.2, "rsLoRA scored better than LoRA at every rank tried (r=16: +0.100 [+0.07"),
        (-0.1, -0.2, "rsLoRA scored worse than LoRA at every rank tried (r=16: -0.100"),
        (0.0, 0.0025, "no difference between rsLoRA and LoRA was seen (r=16: +0.000"),
        (0.0, 0.2, "rsLoRA against LoRA: no difference seen at r=16: +0.000 [-0.007, +0.007], better at r=64: +0.200"),
        (-0.1, 0.1, "rsLoRA against LoRA: worse at r=16: -0.100 [-0.130, -0.07"),
    ],
)
def test_rslora_against_lora(made_up, r16, r64, said):
    assert said in first(made_up(shares(r16, r64, 0.5)))


def test_what_a_conclusion_compares_is_corrected_together(made_up):
    """8 of 400 items more at each of two ranks: p = 2^-7 each, and three comparisons are made."""
    found = shares(0.02, 0.02, 0.4)
    assert "rsLoRA scored better than LoRA at every rank tried" in first(made_up(found))
    less = shares(0.015, 0.015, 0.4)  # 6 items: p = 2^-5, 0.09 after the correction
    assert made_up(less).compared([("rslora-r16", "lora-r16")])[0].verdict == "better"  # alone it would pass
    assert "no difference between rsLoRA and LoRA was seen" in first(made_up(less))


@pytest.mark.parametrize(
    ("full", "said"),
    [
        (0.9, "full fine-tuning scored better than the best of 4 adapters, rsLoRA r=64 (+0.300"),
        (0.3, "full fine-tuning scored worse than the best of 4 adapters, rsLoRA r=64 (-0.300"),
        (0.6, "no difference between full fine-tuning and the best of 4 adapters, rsLoRA r=64 was seen (+0.000"),
    ],
)
def test_full_against_the_best_adapter(made_up, full, said):
    line = first(made_up(shares(0.1, 0.2, full)))
    assert said in line
    assert "picked on these same items, which flatters it" in line


def test_failed_runs_are_left_out_and_counted(made_up):
    found = {**shares(0.1, 0.2, 0.5), "rslora-r16": None, "full": None}
    said = first(made_up(found))
    assert "rsLoRA scored better than LoRA (r=64: +0.200" in said
    assert "full fine-tuning" not in said
    assert said.endswith("2 of 5 runs failed and are left out.")


def test_nothing_finished(made_up):
    said = methods(made_up(dict.fromkeys(shares(0, 0, 0), None)))
    assert "nothing can be compared: too few runs finished. 5 of 5 runs failed" in said[0]
    assert len(said) == 2  # no cost without runs


@pytest.mark.parametrize(
    ("seconds", "cpu", "memory", "said"),
    [
        (10.4, 20, 100, "LoRA r=16 was not clearly faster or slower (10.4 s) and took about as much state (100.0 MiB)"),
        (7.0, 14, 50, "LoRA r=16 was faster (7.0 s) and took less state (50.0 MiB)"),
        (7.0, 20, 50, "LoRA r=16 was not clearly faster or slower (7.0 s)"),  # wall-clock alone may be another program
        (16.0, 32, 180, "LoRA r=16 was slower (16.0 s) and took more state (180.0 MiB)"),
    ],
)
def test_cost_is_what_was_measured(made_up, seconds, cpu, memory, said):
    result = made_up(shares(0.1, 0.2, 0.5))
    result.runs[0].summary.update(seconds=seconds, cpu_seconds=cpu, state_bytes=memory << 20)
    line = methods(result)[1]
    assert line.startswith("Cost here (single timings): full fine-tuning took 10.0 s and 100.0 MiB of training state; ")
    assert said in line


def test_the_condition_is_that_of_the_recipes(made_up):
    variants = {"lora-r16": {}, "full": {"method": "full", "optim.learning_rate": 1e-4}}
    lines = methods(made_up({"lora-r16": 0.4, "full": 0.6}, variants=variants, axis=None))
    assert lines[0].startswith(
        "At the same alpha (16) but with another learning rate for each variant, with one seed, full"
    )
    several = methods(made_up(shares(0.1, 0.2, 0.5), seeds=[0, 1, 2]))
    assert several[0].startswith("At the same alpha (16) and learning rate (0.001), over 3 seeds, rsLoRA")
    assert "3 seeds were used" in several[-1]


def test_any_study_has_a_sentence(made_up):
    said = sentence(made_up(shares(0.1, -0.1, 0.4)))
    assert said.startswith("Against lora-r16: better: rslora-r16 (+0.100 [+0.07")
    assert "; worse: rslora-r64 (-0.100 [-0.13" in said
    assert "no difference seen: lora-r64 (+0.000 [-0.007, +0.007]), full" in said
    assert sentence(made_up({"lora-r16": 0.4}, variants={"lora-r16": {}}, axis=None)) == ""


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.3, 0.5, "LoRA gained from r=16 to r=64 (+0.200"),
        (0.5, 0.3, "LoRA lost from r=16 to r=64 (-0.200"),
        (0.3, 0.3, "LoRA showed no difference from r=16 to r=64 (+0.000"),
    ],
)
def test_rank_curve(made_up, low, high, said):
    assert said in rank_curve(made_up({"lora-r16": low, "lora-r64": high}))


def sweep(made_up, scores: dict[str, list[float]], dev: dict[str, list[float]]):
    rates = [3e-4, 1e-3, 3e-3]
    kinds = {"lora": {}, "rslora": {"method.use_rslora": True}, "full": {"method": "full"}}
    pairs = list(itertools.product(scores, zip(rates, range(3), strict=True)))
    variants = {f"{kind}-{rate}": {**kinds[kind], "optim.learning_rate": rate} for kind, (rate, _) in pairs}
    result = made_up(
        {f"{kind}-{rate}": scores[kind][place] for kind, (rate, place) in pairs},
        variants=variants,
        axis="optim.learning_rate",
    )
    chosen = made_up({f"{k}-{r}": dev[k][p] for k, (r, p) in pairs}, variants=variants, axis=None)
    runs = [
        replace(run, right={**run.right, "dev": other.right["embedded"]})
        for run, other in zip(result.runs, chosen.runs, strict=True)
    ]
    return replace(result, runs=tuple(runs), suites={"embedded": 400, "dev": 400})


def test_rates_are_chosen_on_one_set_and_reported_on_another(made_up):
    scores = {"lora": [0.1, 0.3, 0.6], "rslora": [0.5, 0.6, 0.65], "full": [0.5, 0.7, 0.4]}
    dev = {"lora": [0.1, 0.2, 0.3], "rslora": [0.1, 0.3, 0.2], "full": [0.1, 0.3, 0.2]}
    said = rate_sweep(sweep(made_up, scores, dev), "dev")
    assert (
        "chosen on dev: LoRA r=16 0.600 [0.552, 0.648] (at 0.003, at the edge of the rates tried), rsLoRA r=16" in said
    )
    assert "full 0.700 [0.65" in said
    assert "(at 0.001)" in said
    assert "shrinks: +0.300 [+0.25" in said
    assert "] at the same rate of 0.001, +0.000 [-0.007, +0.007] when each is tuned, no difference seen" in said


def test_a_gap_that_does_not_shrink_is_said_not_to(made_up):
    scores = {"lora": [0.1, 0.1, 0.1], "rslora": [0.5, 0.5, 0.5]}
    said = rate_sweep(sweep(made_up, scores, {"lora": [0.1, 0.3, 0.2], "rslora": [0.1, 0.3, 0.2]}), "dev")
    assert "does not shrink: +0.400" in said


def test_data_curve(made_up):
    variants = {f"rows-{n}": {"data.train": [{"path": "embedded:train", "max_rows": n}]} for n in (100, 4000)}
    result = made_up({"rows-100": 0.4, "rows-4000": 0.7}, variants=variants, axis="data.train")
    said = data_curve(result)
    assert said.startswith("From 100 to 4000 examples in the same number of steps: more examples helped (+0.300")
    assert said.endswith("while the training loss went from 0.600 to 0.300.")
    assert "Not controlled" in result.controlled()


def test_the_reference_of_the_gap_is_the_rate_of_the_base_not_the_widest(made_up):
    scores = {"lora": [0.0, 0.5, 0.6], "rslora": [0.9, 0.6, 0.6]}
    said = rate_sweep(sweep(made_up, scores, {"lora": [0.1, 0.2, 0.3], "rslora": [0.1, 0.2, 0.3]}), "dev")
    assert "The gap between rsLoRA r=16 and LoRA r=16 shrinks: +0.100 [+0.07" in said
    assert "0.900" not in said


def test_a_part_that_measures_it_does_not_point_elsewhere(made_up):
    said = methods(made_up(shares(0.1, 0.2, 0.5)), tuned_where="the part on learning rates")[-1]
    assert said.endswith("(the part on learning rates measures it).")
