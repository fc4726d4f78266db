# SPDX-License-Identifier: Apache-2.0
"""Rows of every format, and what each refuses."""

from __future__ import annotations

import pytest
from tests.unit.data.reading import messages, read, turns

from luthier.core.types import Completion, Text
from luthier.data.columns import choose
from luthier.data.faults import RowFault


def fault(row: dict, name: str = "auto", **columns: str) -> str:
    with pytest.raises(RowFault) as caught:
        read(row, name, **columns)
    return str(caught.value)


def test_alpaca():
    row = {"instruction": "Add.", "input": "1 2", "output": "3"}
    assert turns(read(row)) == [("user", "Add.\n1 2"), ("assistant", "3")]
    assert turns(read(row | {"input": ""}))[0] == ("user", "Add.")
    assert turns(read(row | {"input": None}))[0] == ("user", "Add.")


def test_alpaca_with_system_and_history():
    row = {"instruction": "c", "output": "d", "system": "s", "history": [["a", "b"]]}
    assert turns(read(row)) == [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"output": ""}, "empty answer (turn 2)"),
        ({"output": " \n"}, "empty answer (turn 2)"),
        ({"output": None}, "output is null"),
        ({"output": 5}, "output is not text (a number)"),
        ({"output": ["5"]}, "output is not text (a list)"),
        ({"instruction": " "}, "empty instruction"),
        ({"instruction": {"a": 1}}, "instruction is not text (an object)"),
        ({"input": 1}, "input is not text (a number)"),
        ({"history": "x"}, "history is not a list of pairs (text)"),
        ({"history": [["a"]]}, "history is not a list of pairs (a list in it)"),
        ({"history": [["a", ""]]}, "empty answer (turn 2)"),
    ],
)
def test_alpaca_faults(change, said):
    assert fault({"instruction": "a", "input": "", "output": "b"} | change, "alpaca") == said


def test_a_row_without_the_column():
    reading = choose("f", "alpaca", {}, ["question", "answer"])
    with pytest.raises(RowFault, match="no column answer"):
        reading.read({"question": "a"}, reading.columns)


def test_messages():
    assert turns(read(messages("system", "user", "assistant"))) == [
        ("system", "system 0"),
        ("user", "user 1"),
        ("assistant", "assistant 2"),
    ]


def test_content_in_parts():
    parts = [{"type": "text", "text": "one "}, {"type": "text", "value": "two"}, "!"]
    row = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "a"}]}
    assert turns(read(row))[0] == ("user", "one two!")


def test_sharegpt_speakers():
    for human, machine in (("human", "gpt"), ("user", "assistant"), ("Human", "ChatGPT"), ("user", "bot")):
        row = {"conversations": [{"from": human, "value": "a"}, {"from": machine, "value": "b"}]}
        assert turns(read(row)) == [("user", "a"), ("assistant", "b")]


def test_sharegpt_system_column():
    row = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "s"}
    assert turns(read(row))[0] == ("system", "s")
    row["conversations"].insert(0, {"from": "system", "value": "t"})
    assert fault(row) == "a system column and a system turn"


def test_weights():
    row = {"messages": [
        {"role": "user", "content": "a", "weight": 0},
        {"role": "assistant", "content": "b", "weight": 0},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d", "loss_weight": 1.0},
    ]}  # fmt: skip
    assert [message.scored for message in read(row).messages] == [False, False, True, True]


@pytest.mark.parametrize(
    ("roles", "said"),
    [
        (["user"], "no assistant turn"),
        (["system"], "no assistant turn"),
        ([], "no assistant turn"),
        (["user", "assistant", "user"], "ends with a user turn (nothing answers it)"),
        (["user", "user", "assistant"], "two user turns in a row (turn 2)"),
        (["user", "assistant", "assistant"], "two assistant turns in a row (turn 3)"),
        (["assistant", "user", "assistant"], "starts with an assistant turn (turn 1)"),
        (["user", "system", "assistant"], "a system turn that is not the first"),
        (["system", "system", "user", "assistant"], "a system turn that is not the first"),
        (["user", "assistant", "tool", "assistant"], "turns of tools are not supported"),
        (["user", "function_call", "observation", "assistant"], "turns of tools are not supported"),
    ],
)
def test_order_of_turns(roles, said):
    assert fault(messages(*roles)) == said
    sharegpt = {"conversations": [{"from": role, "value": "x"} for role in roles]}
    assert fault(sharegpt) == said


@pytest.mark.parametrize(
    ("turn", "said"),
    [
        ({"role": "narrator", "content": "x"}, "unknown role ('narrator' in turn 2; known: system, user, human"),
        ({"content": "x"}, "a turn without role (turn 2)"),
        ({"role": None, "content": "x"}, "a turn without role (turn 2)"),
        ({"role": "assistant", "content": ""}, "empty answer (turn 2)"),
        ({"role": "assistant", "content": None}, "content is not text (turn 2 is null)"),
        ({"role": "assistant"}, "content is not text (turn 2 is null)"),
        ({"role": "assistant", "content": None, "tool_calls": [{}]}, "turns of tools are not supported"),
        (
            {"role": "assistant", "content": [{"type": "image"}]},
            "content with parts that are not text (image in turn 2)",
        ),
        ({"role": "assistant", "content": [{"type": "text"}]}, "content is not text (turn 2 has a part that is null)"),
        ({"role": "assistant", "content": "x", "weight": 0.5}, "a weight that is not supported (0.5 on a assistant"),
        ("x", "a turn is not an object (turn 2 is text)"),
    ],
)
def test_faults_of_a_turn(turn, said):
    assert fault({"messages": [{"role": "user", "content": "a"}, turn]}).startswith(said)


def test_a_weight_on_a_question():
    row = {"messages": [{"role": "user", "content": "a", "weight": 1}, {"role": "assistant", "content": "b"}]}
    assert fault(row).startswith("a weight that is not supported (1 on a user turn 1")


def test_an_empty_question():
    row = {"messages": [{"role": "user", "content": " "}, {"role": "assistant", "content": "b"}]}
    assert fault(row) == "empty user turn (turn 1)"


def test_lists_that_are_none():
    assert fault({"messages": "x"}) == "messages is not a list (text)"
    assert fault({"conversations": None}) == "conversations is not a list (null)"


def test_prompt_completion():
    assert read({"prompt": "a", "completion": "b"}) == Completion(prompt="a", completion="b")
    assert fault({"prompt": "a", "completion": " "}) == "empty answer"
    assert fault({"prompt": None, "completion": "b"}) == "prompt is null"
    assert fault({"prompt": "a", "completion": [1]}).startswith("prompt and completion are of different kinds")


def test_prompt_completion_of_messages_trains_the_completion_alone():
    prompt = [{"role": r, "content": r} for r in ("user", "assistant", "user")]
    example = read({"prompt": prompt, "completion": [{"role": "assistant", "content": "x"}]})
    assert [m.scored for m in example.messages if m.role == "assistant"] == [False, True]


def test_text():
    assert read({"text": " a "}) == Text(text=" a ")
    assert fault({"text": ""}) == "empty text"
    assert fault({"text": None}) == "text is null"
