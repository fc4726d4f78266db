# SPDX-License-Identifier: Apache-2.0
"""Judged answers as trees: each branch is its answer's own encoding, cut jointly where it is too long."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luthier.core.types import Judged, Message
from luthier.data.branches import branches, grown
from luthier.data.faults import RowFault
from luthier.data.kinds.plain import texts as render
from luthier.data.prepare import open_context
from luthier.data.store import Row
from luthier.data.tokens import encode
from luthier.recipe.schema import Data

WORDS = st.text(alphabet="ab cP.\n{é<|世", min_size=1, max_size=12).filter(str.strip)


def question(*texts: str) -> tuple[Message, ...]:
    return tuple(Message(role=("user", "assistant")[i % 2], content=text) for i, text in enumerate(texts))


def answer(text: str) -> tuple[Message, ...]:
    return (Message(role="assistant", content=text),)


def row(prompt, answers, grades=None) -> Judged:
    grades = grades or tuple(range(len(answers), 0, -1))
    if isinstance(prompt, str):
        return Judged(prompt=prompt, answers=tuple(answers), grades=grades)
    return Judged(prompt=question(*prompt), answers=tuple(map(answer, answers)), grades=grades)


def grow(tokenizer, judged: Judged, **keys) -> Row | RowFault:
    data = Data(train="x", **keys)
    context = open_context(data, tokenizer, lambda _: None)
    encodings = encode(context.vocabulary, render(context, branches(judged)))
    return grown(judged, encodings, data, context.vocabulary.bos)


def parts(found: Row) -> tuple[list[int], list[list[int]], list[list[int]]]:
    """Tokens of the prompt and of each answer, and the scored ones of each answer."""
    place = len(found.ids) - sum(found.answers)
    prompt, ids, scored = found.ids[:place].tolist(), [], []
    assert not found.scored[:place].any()
    for length in found.answers:
        here = slice(place, place + length)
        ids.append(found.ids[here].tolist())
        scored.append(found.ids[here][found.scored[here]].tolist())
        place += length
    return prompt, ids, scored


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(
    prompt=st.lists(WORDS, min_size=1, max_size=3).filter(lambda x: len(x) != 2),
    answers=st.lists(WORDS, min_size=1, max_size=4, unique_by=str.strip),
)
def test_branches_of_messages_equal_what_a_server_sees(any_tokenizer, prompt, answers):
    template = None if any_tokenizer.chat_template else "zephyr"
    judged = row(prompt, answers)
    found = grow(any_tokenizer, judged, **({"chat_template": template} if template else {}))
    assert isinstance(found, Row)
    context = open_context(Data(train="x", chat_template=template or "auto"), any_tokenizer, lambda _: None)
    shared, ids, scored = parts(found)
    for text, own, marked in zip(answers, ids, scored, strict=True):
        messages = [{"role": m.role, "content": m.content} for m in (*judged.prompt, *answer(text))]
        served = any_tokenizer.apply_chat_template(
            messages, chat_template=context.renderer.template.source, tokenize=True, return_dict=False
        )
        branch = shared + own
        assert branch in (served, [*served, any_tokenizer.eos_token_id])
        told = any_tokenizer.decode(marked, clean_up_tokenization_spaces=False)
        assert text.strip() in told
        assert all(other.strip() not in told for other in prompt if len(other.strip()) > len(told))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(prompt=WORDS, answers=st.lists(WORDS, min_size=1, max_size=4, unique=True))
def test_branches_of_text_equal_the_text(any_tokenizer, prompt, answers):
    found = grow(any_tokenizer, row(prompt, answers))
    alone = [any_tokenizer(prompt + text)["input_ids"] + [any_tokenizer.eos_token_id] for text in answers]
    if isinstance(found, RowFault):  # the first tokens differ: prompt and answer grew together into one token
        assert found.reason == "no prompt token that all answers share"
        assert len({ids[0] for ids in alone}) > 1
        return
    shared, ids, scored = parts(found)
    assert [shared + own for own in ids] == alone
    assert all(marked and marked[-1] == any_tokenizer.eos_token_id for marked in scored)


def test_the_prompt_is_as_long_as_can_be(qwen):
    found = grow(qwen, row(["What is 2 + 2?"], ["It is 4.", "It is 5."]))
    shared, _, scored = parts(found)
    before = [{"role": "user", "content": "What is 2 + 2?"}]
    assert shared == qwen.apply_chat_template(before, add_generation_prompt=True, return_dict=False)
    assert [qwen.decode(ids) for ids in scored] == ["It is 4.<|im_end|>", "It is 5.<|im_end|>"]  # not `It is ` once


def test_every_answer_after_the_prompt_is_scored_or_the_last_alone(qwen):
    prompt = question("a", "b", "c")
    judged = Judged(prompt=prompt, answers=((*answer("d"), *question("e"), *answer("f")),), grades=(1.0,))
    _, _, scored = parts(grow(qwen, judged))
    assert qwen.decode(scored[0]) == "d<|im_end|>f<|im_end|>"
    _, _, scored = parts(grow(qwen, judged, loss_on="last"))
    assert qwen.decode(scored[0]) == "f<|im_end|>"


def test_identical_answers(qwen):
    fault = grow(qwen, row(["q"], ["same", "same"], (1.0, 0.0)))
    assert str(fault) == "identical answers (1 and 2, with different grades)"
    fault = grow(qwen, row(["q"], ["x", "same", "y", "same"], (1.0, 2.0, 3.0, 4.0)))
    assert str(fault) == "identical answers (2 and 4, with different grades)"
    assert isinstance(grow(qwen, row(["q"], ["x", "same", "same"], (1.0, 2.0, 2.0))), Row)


def test_an_answer_that_the_other_begins_with(qwen):
    shared, ids, _ = parts(grow(qwen, row(["q"], ["red", "red and blue"])))
    assert len(shared + ids[0]) < len(shared + ids[1])


@pytest.mark.parametrize("name", ["qwen", "llama"])
@pytest.mark.parametrize("prompt_most", [None, 2, 5, 100])
def test_truncation_takes_the_prompts_start(request, name, prompt_most):
    tokenizer = request.getfixturevalue(name)
    template = {} if tokenizer.chat_template else {"chat_template": "zephyr"}
    judged = row(["Name three colours: red, green and blue."], ["It is 4.", "Paris. What is the capital?"])
    whole = grow(tokenizer, judged, **template)
    shared, ids, _ = parts(whole)
    longest = max(map(len, ids))
    bos = int(name == "llama")
    assert whole.cut == 0
    for room in range(9 - longest, len(shared) + 3):
        if longest + room < 8:
            continue
        found = grow(tokenizer, judged, max_length=longest + room, max_prompt_length=prompt_most, **template)
        most = min(room, prompt_most or room)
        if most < min(len(shared), 1 + bos):
            assert found.reason == "an answer longer than max_length"
            continue
        expected = shared if len(shared) <= most else shared[:bos] + shared[len(shared) - most + bos :]
        assert parts(found)[0] == expected
        assert parts(found)[1] == ids
        assert found.cut == len(shared) - len(expected)
        assert len(expected) + longest <= longest + room
        refused = grow(
            tokenizer, judged, max_length=longest + room, max_prompt_length=prompt_most, truncation="refuse", **template
        )
        assert isinstance(refused, RowFault) is (len(expected) < len(shared))
        assert not found.cut or refused.reason == "longer than max_length"


def test_faults_are_passed_on(qwen):
    judged = row(["q"], ["x", "y"])
    encodings = [RowFault("broken"), RowFault("too")]
    assert grown(judged, encodings, Data(train="x"), None) is encodings[0]
