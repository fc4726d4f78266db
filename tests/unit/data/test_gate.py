# SPDX-License-Identifier: Apache-2.0
"""The token gate refuses what leaves the loss healthy and the model broken."""

from __future__ import annotations

import pytest

from luthier.core.errors import DataError

ALPACA = {"instruction": "2 + 2?", "output": "4"}
CHAT = {"messages": [{"role": r, "content": r} for r in ("user", "assistant", "user", "assistant")]}


def test_two_bos_in_text(llama, write, prepared):
    file = write({"text": "<s>The capital"})
    with pytest.raises(
        DataError, match=r":1 with no chat template: two BOS tokens at the start \('<s>' twice\); .*remove"
    ):
        prepared(file, llama)


def test_two_bos_from_a_template(llama, write, prepared):
    llama.chat_template = "{{ bos_token }}<s>{% for m in messages %}{{ m['content'] + eos_token }}{% endfor %}"
    with pytest.raises(DataError, match=r"with the tokenizer's chat template: two BOS"):
        prepared(write(ALPACA), llama)


def test_one_bos_from_a_template_is_fine(llama, write, prepared):
    llama.chat_template = "{{ bos_token }}{% for m in messages %}{{ m['content'] + eos_token }}{% endfor %}"
    ids = prepared(write(ALPACA), llama).rows.tree(0).segments[0].ids
    assert ids.tolist().count(llama.bos_token_id) == 1


def test_an_end_of_turn_that_is_never_trained(qwen, write, prepared):
    qwen.chat_template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    qwen.eos_token = None
    with pytest.raises(DataError, match="no end-of-turn token, and eos_token is none; every answer must end"):
        prepared(write(ALPACA), qwen)


def test_nothing_to_train(write, prepared):
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]}
    with pytest.raises(DataError, match=r"no scored token in it and the next 2 rows; data\.loss_on, or the weights"):
        prepared(write(row, row))


def test_a_template_that_changes_earlier_turns(qwen, write, prepared):
    qwen.chat_template = "{% for m in messages %}{% if loop.last %}!{% endif %}{{ m['content'] }}<|im_end|>{% endfor %}"
    with pytest.raises(DataError, match=r"renders a turn differently once others follow .*set data\.loss_on: last"):
        prepared(write(CHAT), qwen)


def test_training_tokens_that_differ_from_the_served_ones(qwen, write, prepared, monkeypatch):
    real = qwen.apply_chat_template

    def served(chat, **options):
        found = real(chat, **options)
        return [*found[:-1], found[0]] if options["tokenize"] else found

    monkeypatch.setattr(qwen, "apply_chat_template", served)
    with pytest.raises(DataError, match=r"the training tokens differ from apply_chat_template's at token \d+: '"):
        prepared(write(ALPACA), qwen)


def test_earlier_answers_without_an_end_are_noted_also_from_the_cache(qwen, write, prepared, said):
    qwen.chat_template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + ' ' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
    )
    file = write(CHAT)
    for _ in range(2):
        said.clear()
        account = prepared(file, qwen).ledger.accounts[0]
        assert any("only the last of a row teaches the model to stop" in line for line in account.notes)
        assert any("only the last of a row" in line for line in said)


def test_placeholders_are_noted(write, prepared):
    notes = prepared(write({"instruction": "Who?", "output": "I am {{name}}."})).ledger.accounts[0].notes
    assert notes == ["the answers hold {{name}}: if these are placeholders, fill them in before training"]


def test_special_tokens_as_text_are_noted(write, prepared):
    notes = prepared(write({"prompt": "a", "completion": "b<|endoftext|>"})).ledger.accounts[0].notes
    assert notes == ["rows hold <|endoftext|> as text: it is read as that token, here and by a server"]


def test_no_template(gpt2, write, prepared):
    with pytest.raises(
        DataError, match=r"data\.chat_template: the tokenizer has no chat template.*chatml.*name one in"
    ):
        prepared(write(ALPACA), gpt2)


def test_text_needs_no_template(gpt2, write, prepared):
    assert prepared(write({"text": "a b c"}), gpt2).chat_template is None


def test_a_slow_tokenizer(write, prepared):
    class Slow:
        eos_token = "x"

    with pytest.raises(DataError, match=r"tokenizer Slow: is not a fast tokenizer; one with a tokenizer\.json"):
        prepared(write(ALPACA), Slow())
