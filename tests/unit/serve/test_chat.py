# SPDX-License-Identifier: Apache-2.0
"""Chat in the terminal: turns add up, commands are obeyed, two runs are told the same, and errors end nothing."""

from __future__ import annotations

import io
import sys

import pytest

from luthier.core.errors import UserError

LINES = ["What is the capital of Peru?", "7 plus 9?"]


@pytest.fixture
def chat(monkeypatch, capsys):
    from luthier.cli.chat import main

    def talk(runs, lines, **words):
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        settings = {"max_new_tokens": 12, "temperature": 0.0, "top_p": 1.0, "seed": 0, "dtype": "float32"}
        main([str(run) for run in runs], **({"system": None} | settings | words))
        found = capsys.readouterr()
        return found.out, found.err

    return talk


def expected(offline, name, lines, system=None, **words):
    """Replies of one conversation, turn by turn."""
    turns = [{"role": "system", "content": system}] if system else []
    found = []
    for line in lines:
        turns.append({"role": "user", "content": line})
        found.append(offline(name, [turns], max_new_tokens=12, **words)[0])
        turns.append({"role": "assistant", "content": found[-1]})
    return found


def said(out):
    """The replies; ` ...` says that one was cut."""
    return [one.removesuffix(" ...").rstrip() for one in out.split(" ...\n") if one]


def test_turns_add_up(chat, adapters, offline):
    out, _ = chat([adapters["first"]], LINES)
    assert said(out) == expected(offline, "first", LINES)


def test_commands(chat, adapters, offline):
    lines = [LINES[0], "/reset", LINES[1], "/system Be brief.", LINES[1], "/nonsense", "/help", "/quit", LINES[0]]
    out, err = chat([adapters["first"]], lines)
    once = [expected(offline, "first", [line])[0] for line in LINES]
    assert said(out) == [*once, expected(offline, "first", LINES[1:], "Be brief.")[0]]
    assert "/nonsense: no such command" in err
    assert "with this system prompt" in err


def test_two_runs_are_told_the_same(chat, adapters, offline, tiny_llama):
    out, _ = chat([f"plain={tiny_llama}", adapters["second"]], LINES, system="Be brief.")
    wanted = []
    for pair in zip(*(expected(offline, name, LINES, "Be brief.") for name in ("base", "second")), strict=True):
        wanted += [f"plain: {pair[0]}", f"second: {pair[1]}"]
    assert said(out) == wanted


def test_a_conversation_that_is_too_long_is_told_and_goes_on(chat, adapters, offline):
    out, err = chat([adapters["first"]], ["word " * 400, LINES[0]])
    assert "a shorter conversation; /reset begins again" in err
    assert said(out) == expected(offline, "first", LINES[:1])


def test_wrong_words(chat, adapters):
    for words in ({"dtype": "int4"}, {"top_p": 0.0}):
        with pytest.raises(UserError):
            chat([adapters["first"]], [], **words)
    with pytest.raises(UserError, match="one or two"):
        chat([adapters["first"]] * 3, [])


def test_a_reply_that_is_cut_short_is_kept_as_far_as_it_came(server):
    from luthier.serve.chat import Conversation, Manner

    talk = Conversation(server.shelf.served["base"], Manner(max_new_tokens=400))
    reply = talk.ask(LINES[0])
    pieces = reply.pieces()
    begun = next(pieces)
    pieces.close()  # as Ctrl-C does
    assert server.idle()
    assert talk.turns == [{"role": "user", "content": LINES[0]}, {"role": "assistant", "content": begun}]
    assert server.shelf.served["base"].engine.counts.ended["cancelled"] > 0
