# SPDX-License-Identifier: Apache-2.0
"""Claims: what holds, what does not, what was not shown, and the sentence for each."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import pytest

from luthier.study.claims import judged
from luthier.study.report import markdown


@dataclass(frozen=True)
class Claim:
    """A claim as a study file's section gives it."""

    kind: str
    first: str
    second: str
    on: str | None = None


class Claiming:
    """A study with claims, for a schema that knows none."""

    def __init__(self, study, claims):
        self._study, self.claims = study, claims

    def __getattr__(self, name):
        return getattr(self._study, name)


@pytest.fixture
def judge(made_up):
    def build(shares, *claims: Claim, **changes):
        result = made_up(shares, **changes)
        design = replace(result.design, study=Claiming(result.design.study, claims))
        return replace(result, design=design)

    return build


SHARES = {"lora-r16": 0.4, "lora-r64": 0.405, "rslora-r16": 0.6, "rslora-r64": 0.42, "full": 0.385}


@pytest.mark.parametrize(
    ("claim", "holds"),
    [
        (Claim("better", "rslora-r16", "lora-r16"), True),
        (Claim("better", "lora-r16", "rslora-r16"), False),
        (Claim("better", "lora-r64", "lora-r16"), "not shown"),  # 2 items more
        (Claim("better", "full", "lora-r16"), False),  # 6 items less
        (Claim("no_difference", "lora-r64", "lora-r16"), True),
        (Claim("no_difference", "rslora-r16", "lora-r16"), False),
        (Claim("at_least", "rslora-r16", "lora-r16"), True),
        (Claim("at_least", "lora-r64", "lora-r16"), "not shown"),
        (Claim("at_least", "lora-r16", "rslora-r16"), False),
    ],
)
def test_a_claim_is_judged(judge, claim, holds):
    (found,) = judged(judge(SHARES, claim))
    assert found.holds == holds
    word = {True: ": holds (", False: ": does not hold ("}.get(holds, ": not shown (")
    assert word in found.sentence
    assert f"difference {found.difference.estimate.value:+.3f} [" in found.sentence
    assert "one seed" in found.sentence


def test_at_least_is_one_sided(judge):
    """5 items more and none less: 2 / 2^5 = 0.0625 is too much for `better`, half of it not for `at least`."""
    shares = {**SHARES, "lora-r64": 0.4125}
    better, least = Claim("better", "lora-r64", "lora-r16"), Claim("at_least", "lora-r64", "lora-r16")
    assert judged(judge(shares, better))[0].holds == "not shown"
    assert judged(judge(shares, least))[0].holds is True


def test_claims_are_corrected_together(judge):
    """6 items less are seen alone (p = 2 / 2^6), and not as one of two claims."""
    one = Claim("better", "full", "lora-r16")
    assert judged(judge(SHARES, one))[0].holds is False
    both = judged(judge(SHARES, one, Claim("better", "lora-r64", "lora-r16")))
    assert [found.holds for found in both] == ["not shown", "not shown"]
    assert both[0].difference.p_holm == 2 * 2 / 2**6


def test_no_difference_needs_the_interval_to_hold_zero(judge):
    """Correction makes differences harder to see; it must not make `no difference` easier to claim."""
    claims = [Claim("no_difference", "full", "lora-r16"), Claim("better", "lora-r64", "lora-r16")]
    first, _ = judged(judge(SHARES, *claims))
    assert first.difference.verdict == "no difference seen"
    assert first.difference.estimate.high < 0
    assert first.holds == "not shown"


def test_sentences_say_what_a_bare_verdict_hides(judge):
    alike, unclear = judged(
        judge(SHARES, Claim("no_difference", "lora-r64", "lora-r16"), Claim("better", "lora-r64", "lora-r16"))
    )
    reach = max(abs(alike.difference.estimate.low), alike.difference.estimate.high)
    assert alike.sentence.startswith("lora-r64 and lora-r16 score alike: holds (difference +0.005 [")
    assert alike.sentence.endswith(f"; a difference of up to {reach:.3f} is not ruled out.")
    assert unclear.sentence.endswith("would be seen in four such studies of five.")
    least = judged(judge(SHARES, Claim("at_least", "rslora-r16", "full")))[0]
    assert least.claim == "rslora-r16 scores at least as well as full"
    assert "p < 0.001" in least.sentence


def test_several_seeds_are_not_called_one(judge):
    shares = {"lora-r16": [0.4, 0.41, 0.42], "rslora-r16": [0.6, 0.62, 0.6]}
    (found,) = judged(judge(shares, Claim("better", "rslora-r16", "lora-r16"), seeds=[0, 1, 2]))
    assert found.holds is True
    assert "one seed" not in found.sentence


def test_a_claim_on_failed_runs_is_not_shown(judge):
    (found,) = judged(judge({**SHARES, "full": None}, Claim("better", "full", "lora-r16")))
    assert found.holds == "not shown"
    assert found.sentence == "full scores better than lora-r16: not shown, too few runs finished to compare them."
    assert found.to_json()["delta"] is None


def test_a_claim_names_its_suite(judge):
    result = judge(SHARES, Claim("better", "rslora-r16", "lora-r16", on="dev"))
    runs = tuple(
        replace(run, right={**run.right, "dev-first-100": 1 - run.right["embedded"][:100]}) for run in result.runs
    )
    both = replace(result, runs=runs, suites={"embedded": 400, "dev-first-100": 100})
    (found,) = judged(both)
    assert found.suite == "dev-first-100"
    assert found.holds == "not shown"  # the first 100 items are answered alike


def test_the_report_prints_every_claim_also_those_that_do_not_hold(judge):
    result = judge(SHARES, Claim("better", "rslora-r16", "lora-r16"), Claim("better", "lora-r16", "rslora-r16"))
    text = markdown(result)
    assert "## Claims\n\n- rslora-r16 scores better than lora-r16: holds (" in text
    assert "- lora-r16 scores better than rslora-r16: does not hold (" in text
    tree = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert [claim["holds"] for claim in tree["claims"]] == [True, False]
    assert tree["claims"][0]["delta_low"] > 0
    assert tree["claims"][0]["sentence"]["text"] in text


def test_a_study_without_claims_has_none(made_up):
    assert judged(made_up(SHARES)) == []
    assert "## Claims" not in markdown(made_up(SHARES))
