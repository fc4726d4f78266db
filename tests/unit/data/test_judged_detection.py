# SPDX-License-Identifier: Apache-2.0
"""Which formats are for judged answers, told by the columns."""

from __future__ import annotations

import pytest

from luthier.core import registry
from luthier.core.errors import DataError
from luthier.data.columns import choose

JUDGED = [
    ("preference", "prompt chosen rejected"),
    ("preference", "chosen rejected messages score_chosen score_rejected prompt prompt_id"),
    ("preference", "chosen_messages rejected_messages"),
    ("preference", "question response_j response_k"),
    ("ranked", "prompt answers ranks"),
    ("ranked", "instruction completions"),
    ("oasst", "message_tree_id tree_state prompt"),
    ("comparison", "idx instruction input response1 response2 annotator1 annotator2 annotator3"),
    ("comparison", "instruction output_1 output_2 preference generator_1"),
    ("unpaired", "prompt completion label"),
    ("unpaired", "messages label"),
    ("unpaired", "instruction input output kto_tag"),
    ("unpaired", "conversation_id context generation reward"),
]


@pytest.mark.parametrize(("name", "columns"), JUDGED)
@pytest.mark.parametrize("kind", ["judged", None])
def test_detection(name, columns, kind):
    reading = choose("f", "auto", {}, columns.split(), kind=kind)
    assert (reading.format, reading.kind) == (name, "judged")


@pytest.mark.parametrize(("name", "columns"), JUDGED)
def test_sft_never_reads_judged_rows(name, columns):
    with pytest.raises(DataError, match="no format is known for its columns") as told:
        choose("f", "auto", {}, columns.split(), kind="plain")
    assert f"s {name} they are for preference objectives (dpo, orpo, kto, reward" in str(told.value)


def test_rows_of_sft_are_no_judged_rows():
    with pytest.raises(DataError, match=r"as alpaca they are for objective sft, .*: change objective:"):
        choose("f", "auto", {}, ["instruction", "output"], kind="judged")
    with pytest.raises(
        DataError, match=r"rows of format alpaca are for objective sft, .*; here: preference objectives"
    ):
        choose("f", "alpaca", {}, ["instruction", "output"], kind="judged")
    with pytest.raises(DataError, match=r"rows of format preference are for preference objectives .*; here: objective"):
        choose("f", "preference", {}, ["prompt", "chosen", "rejected"], kind="plain")
    assert choose("f", "auto", {}, ["instruction", "output"], kind=None).kind == "plain"


def test_half_of_the_formats_are_judged():
    names = registry.entries("data.formats")
    judged = {name for name in names if getattr(registry.get("data.formats", name), "ROWS", "plain") == "judged"}
    assert judged == {"preference", "ranked", "oasst", "comparison", "unpaired"}
