# SPDX-License-Identifier: Apache-2.0
"""Rows of judged answers: what each format makes of them, and what it refuses."""

from __future__ import annotations

import pytest
from tests.unit.data.judged_reading import told

from luthier.data.columns import choose
from luthier.data.faults import RowFault


def read(row, format_="auto", **columns):
    reading = choose("f", format_, columns, list(row), kind="judged")
    return reading.read(row, reading.columns)


def user(text):
    return {"role": "user", "content": text}


def bot(text):
    return {"role": "assistant", "content": text}


U, A, B = ("user", "q"), ("assistant", "good"), ("assistant", "bad")

PAIR = ([U], [[A], [B]], [1.0, 0.0])

PAIRS = {
    "messages": {"prompt": [user("q")], "chosen": [bot("good")], "rejected": [bot("bad")]},
    "messages that repeat the prompt": {
        "prompt": [user("q")],
        "chosen": [user("q"), bot("good")],
        "rejected": [user("q"), bot("bad")],
    },
    "implicit prompt": {"chosen": [user("q"), bot("good")], "rejected": [user("q"), bot("bad")]},
    "UltraFeedback": {"prompt": "q", "chosen": [user("q"), bot("good")], "rejected": [user("q"), bot("bad")]},
    "text prompt, one message each": {"prompt": "q", "chosen": [bot("good")], "rejected": [bot("bad")]},
    "messages and text": {"prompt": [user("q")], "chosen": "good", "rejected": "bad"},
    "LLaMA-Factory sharegpt": {
        "conversations": [{"from": "human", "value": "q"}],
        "chosen": {"from": "gpt", "value": "good"},
        "rejected": {"from": "gpt", "value": "bad"},
    },
    "LLaMA-Factory alpaca": {"instruction": "q", "input": "", "chosen": "good", "rejected": "bad"},
    "LLaMA-Factory v1": {
        "chosen_messages": [user([{"type": "text", "value": "q"}]) | {"loss_weight": 0.0}, bot("good")],
        "rejected_messages": [user([{"type": "text", "value": "q"}]) | {"loss_weight": 0.0}, bot("bad")],
    },
    "Stack Exchange": {"question": "q", "response_j": "good", "response_k": "bad"},
    "hh-rlhf": {"chosen": "\n\nHuman: q\n\nAssistant: good", "rejected": "\n\nHuman: q\n\nAssistant: bad"},
    "hh-rlhf with its prompt": {"prompt": "\n\nHuman: q\n\nAssistant:", "chosen": "good", "rejected": "bad"},
}


@pytest.mark.parametrize("row", PAIRS.values(), ids=PAIRS)
def test_pairs(row):
    assert told(read(row)) == PAIR


def test_text_stands_as_it_is():
    assert told(read({"prompt": "Q: x\nA:", "chosen": " yes", "rejected": " no"})) == (
        *("Q: x\nA:", [" yes", " no"]),
        [1.0, 0.0],
    )
    # an implicit prompt ends with a word: `ye|s` and `ye|t` would be cut inside of one
    assert told(read({"chosen": "I say yes", "rejected": "I say yet"}))[:2] == ("I say", [" yes", " yet"])


def test_system_and_history():
    row = {"instruction": "q", "input": "more", "system": "s", "history": [["a", "b"]], "chosen": "x", "rejected": "y"}
    before = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "q\nmore")]
    assert told(read(row))[0] == before
    row = {"conversations": [user("q")], "system": "s", "chosen": bot("x"), "rejected": bot("y")}
    assert told(read(row))[0] == [("system", "s"), U]


def test_answers_of_several_turns():
    row = {"chosen": [user("q"), bot("a"), user("b"), bot("c")], "rejected": [user("q"), bot("a")]}
    assert told(read(row))[:2] == ([U], [[("assistant", "a"), ("user", "b"), ("assistant", "c")], [("assistant", "a")]])


def test_a_dialogue_in_a_transcript():
    text = "\n\nHuman: a\n\nAssistant: b\nHuman: is no turn here\n\nHuman: c\n\nAssistant:"
    row = {"chosen": f"{text} yes\n", "rejected": f"{text} no"}
    before = [("user", "a"), ("assistant", "b\nHuman: is no turn here"), ("user", "c")]
    assert told(read(row))[:2] == (before, [[("assistant", "yes")], [("assistant", "no")]])


@pytest.mark.parametrize(
    ("columns", "scores"),
    [
        ({"score_chosen": 8.5, "score_rejected": 3}, (8.5, 3.0)),
        ({"margin": 2}, (2.0, 0.0)),
        ({"margin": "0.5"}, (0.5, 0.0)),
        ({"margin": None}, None),
        ({"margin": 9, "score_chosen": 1, "score_rejected": 2}, (1.0, 2.0)),
        ({}, None),
    ],
)
def test_scores_and_margins(columns, scores):
    assert read(PAIRS["messages"] | columns).scores == scores


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"chosen": None}, "empty chosen"),
        ({"rejected": []}, "empty rejected"),
        ({"chosen": 3}, r"chosen is not text, a message or a list of messages \(a number\)"),
        ({"chosen": [bot(" ")]}, "empty answer"),
        ({"chosen": [user("x")]}, "no assistant turn"),
        ({"chosen": [user("x"), bot("y")]}, "two user turns in a row"),
        ({"prompt": []}, "no prompt that all answers share"),
        ({"prompt": 5}, "prompt is neither text nor a list of messages"),
        ({"prompt": "other", "chosen": [user("q"), bot("a")], "rejected": [user("q"), bot("b")]}, "not among the"),
        ({"prompt": "q", "chosen": "x", "rejected": "y", "system": "s"}, "a system prompt beside a prompt that is"),
        ({"prompt": [{"role": "system", "content": "t"}, user("q")], "system": "s"}, "a system column and a system"),
        ({"margin": "much"}, r"margin is not a number \('much'\)"),
        ({"margin": True}, "margin is not a number"),
        ({"score_chosen": float("nan"), "score_rejected": 1}, "score_chosen is not a number"),
        ({"score_chosen": 1}, "a score of one answer, but none of the other"),
    ],
)
def test_faults_of_pairs(change, said):
    with pytest.raises(RowFault, match=said):
        read(PAIRS["messages"] | change)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"chosen": [user("a"), bot("x")], "rejected": [user("b"), bot("y")]}, "no prompt that all answers share"),
        ({"chosen": "one", "rejected": "two"}, "no prompt that all answers share"),
        ({"chosen": "one two", "rejected": "one"}, "one answer is the beginning of the other"),
        ({"prompt": "q", "chosen": "x", "rejected": {"role": "assistant"}}, "rejected is not text, as the prompt is"),
        ({"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant:"}, "empty answer"),
    ],
)
def test_faults_of_implicit_prompts(row, said):
    with pytest.raises(RowFault, match=said):
        read(row)


@pytest.mark.parametrize("field", ["ranks", "rank"])
def test_ranks(field):
    row = {"prompt": [user("q")], "answers": ["x", "y", "z"], field: [2, 1, 2]}
    assert told(read(row)) == ([U], [[("assistant", "x")], [("assistant", "y")], [("assistant", "z")]], [-2, -1, -2])


def test_scores_are_grades_where_there_are_no_ranks():
    found = read({"instruction": "q", "responses": ["x", "y"], "scores": [0.5, 7]})
    assert (found.grades, found.scores) == ((0.5, 7.0), (0.5, 7.0))
    found = read({"instruction": "q", "responses": ["x", "y"], "scores": [0.5, 7], "ranks": [1, 2]})
    assert (found.grades, found.scores) == ((-1.0, -2.0), (0.5, 7.0))


def test_answers_that_hold_their_rank_or_score():
    nectar = {
        "prompt": "\n\nHuman: q\n\nAssistant: ",
        "answers": [{"answer": "x", "rank": 2}, {"answer": "y", "rank": 1}],
    }
    assert told(read(nectar)) == ([U], [[("assistant", "x")], [("assistant", "y")]], [-2, -1])
    ultra = {
        "instruction": "q",
        "completions": [{"response": "x", "overall_score": 5}, {"response": "y", "overall_score": 6}],
    }
    assert read(ultra).grades == (5.0, 6.0)
    turns = {"prompt": [user("q")], "answers": [bot("x"), [bot("y")]], "ranks": [1, 2]}
    assert told(read(turns))[1] == [[("assistant", "x")], [("assistant", "y")]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answers": "x"}, "answers is not a list"),
        ({"answers": ["x"], "ranks": [1]}, "fewer than two answers"),
        ({"ranks": None}, "neither ranks nor scores"),
        ({"ranks": [1]}, r"ranks and answers are of different lengths \(1 and 2\)"),
        ({"ranks": [1, "last"]}, "one of ranks is not a number"),
        ({"ranks": 1}, "ranks is not a list"),
        ({"ranks": [2, 2]}, r"all answers have the same grade \(2 of -2\)"),
        ({"answers": ["x", " "]}, "empty answer"),
    ],
)
def test_faults_of_ranked_lists(change, said):
    with pytest.raises(RowFault, match=said):
        read({"prompt": [user("q")], "answers": ["x", "y"], "ranks": [1, 2]} | change)


PANDA = {"instruction": "q", "input": "", "response1": "bad", "response2": "good"}


@pytest.mark.parametrize(
    "row",
    [
        PANDA | {"annotator1": 2, "annotator2": 2, "annotator3": 0},
        PANDA | {"annotator1": 2, "annotator2": 1, "annotator3": 2},
        {"instruction": "q", "output_1": "good", "output_2": "bad", "preference": 1},
        {"instruction": "q", "output_1": "bad", "output_2": "good", "preference": 2.0},
        {"instruction": "q", "output_1": "bad", "output_2": "good", "preference": "1.8"},
    ],
)
def test_comparisons(row):
    assert told(read(row)) == PAIR


@pytest.mark.parametrize("votes", [(0, 0, 1), (1, 2, 0), (0, 0, 0), (1, 2, 1.5)])
def test_ties_are_refused(votes):
    with pytest.raises(RowFault, match="a tie"):
        read(PANDA | dict(zip(("annotator1", "annotator2", "annotator3"), votes, strict=True)))
    with pytest.raises(RowFault, match="a tie"):
        read({"instruction": "q", "output_1": "a", "output_2": "b", "preference": 0})


def test_a_winner_that_is_none():
    with pytest.raises(RowFault, match=r"preference is neither 1, 2 nor 0 \(3\)"):
        read({"instruction": "q", "output_1": "a", "output_2": "b", "preference": 3})


UNPAIRED = {
    "completion": {"prompt": [user("q")], "completion": [bot("good")], "label": True},
    "KTO of LLaMA-Factory": {"messages": [user("q"), bot("good")], "label": True},
    "kto_tag": {"messages": [user("q"), bot("good")], "kto_tag": "true"},
    "sharegpt": {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "good"}], "kto_tag": 1},
    "alpaca": {"instruction": "q", "input": "", "output": "good", "kto_tag": 1.0},
    "CSV": {"instruction": "q", "output": "good", "label": "1"},
}


@pytest.mark.parametrize("row", UNPAIRED.values(), ids=UNPAIRED)
def test_unpaired(row):
    assert told(read(row)) == ([U], [[A]], [1.0])
    name = "label" if "label" in row else "kto_tag"
    assert told(read(row | {name: False}))[2] == [0.0]


def test_unpaired_text():
    assert told(read({"prompt": "Q:", "completion": " a", "label": 0})) == ("Q:", [" a"], [0.0])
    assert told(read({"context": "[]", "generation": "{}", "reward": 1.0})) == ("[]", ["{}"], [1.0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": 2}, "label is not 0, 1, true or false"),
        ({"label": None}, "label is not 0, 1, true or false"),
        ({"messages": [user("q")]}, "no prompt that all"),
        ({"messages": [user("q"), bot("a"), user("b")]}, "two user turns in a row|no assistant turn|ends with"),
        ({"messages": 4}, "messages is not a list"),
    ],
)
def test_faults_of_unpaired_rows(change, said):
    with pytest.raises(RowFault, match=said):
        read(UNPAIRED["KTO of LLaMA-Factory"] | change)


def node(role, text, *replies, **keys):
    return {"role": role, "text": text, "replies": list(replies)} | keys


def test_a_tree_gives_an_example_for_each_question():
    deeper = node("prompter", "r", node("assistant", "e", rank=1), node("assistant", "d", rank=0))
    tree = node(
        *("prompter", "q"),
        node("assistant", "worse", rank=1),
        node("assistant", "best", deeper, node("prompter", "s", node("assistant", "alone", rank=0)), rank=0),
        node("assistant", "gone", rank=2, deleted=True),
        node("assistant", "nobody ranked it", rank=None),
    )
    first, second = read({"message_tree_id": "x", "prompt": tree})
    assert told(first) == ([U], [[("assistant", "best")], [("assistant", "worse")]], [0, -1])
    before = [U, ("assistant", "best"), ("user", "r")]
    assert told(second) == (before, [[("assistant", "d")], [("assistant", "e")]], [0, -1])


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        (node("prompter", "q", node("assistant", "a", rank=0)), "no question with two ranked answers"),
        (node("narrator", "q"), "a role that is neither prompter nor assistant"),
        (node("prompter", None), "a message without text"),
        (node("prompter", "q") | {"replies": "many"}, "replies are not a list of messages"),
        ([], "prompt is not an object"),
    ],
)
def test_faults_of_trees(tree, said):
    with pytest.raises(RowFault, match=said):
        read({"message_tree_id": "x", "prompt": tree})
