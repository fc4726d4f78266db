# SPDX-License-Identifier: Apache-2.0
"""The server as the real `openai` client sees it; replies equal those of `luthier generate`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

openai = pytest.importorskip("openai")

NAMES = ("first", "second", "base")
PROMPTS = ["What is the capital of Peru?", "Give the opposite.\nhot", "List three colours, one a line.", "7 plus 9?"]


def chat(client, name, prompt, **words):
    settings = {"temperature": 0, "max_tokens": 24} | words
    return client.chat.completions.create(model=name, messages=[{"role": "user", "content": prompt}], **settings)


def text_of(stream):
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def test_names(server):
    client = server.client()
    assert [model.id for model in client.models.list().data] == ["first", "second", "base"]
    assert client.models.retrieve("second").id == "second"


@pytest.mark.parametrize("name", NAMES)
def test_greedy_replies_are_the_offline_ones(server, offline, name):
    wanted = offline(name, PROMPTS, max_new_tokens=24)
    got = [chat(server.client(), name, prompt) for prompt in PROMPTS]
    assert [one.choices[0].message.content for one in got] == wanted
    assert {one.model for one in got} == {name}


def test_adapters_differ(offline):
    assert len({offline(name, PROMPTS[:1], max_new_tokens=24)[0] for name in NAMES}) == 3


def test_mixed_and_at_once(server, offline):
    wanted = {name: offline(name, PROMPTS, max_new_tokens=24) for name in NAMES}
    asked = [(name, place) for _ in range(2) for place in range(len(PROMPTS)) for name in NAMES]

    def ask(pair):
        stream = pair[1] % 2 == 0
        found = chat(server.client(), pair[0], PROMPTS[pair[1]], stream=stream)
        return text_of(found) if stream else found.choices[0].message.content

    with ThreadPoolExecutor(12) as pool:
        got = list(pool.map(ask, asked))
    assert got == [wanted[name][place] for name, place in asked]
    passes = server.shelf.served["first"].engine.counts
    assert passes.passes < passes.reply_tokens  # some were written together


def test_a_text_goes_on(server, offline):
    wanted = offline("first", PROMPTS, max_new_tokens=16, raw=True)
    got = server.client().completions.create(model="first", prompt=PROMPTS, temperature=0)
    assert [choice.text for choice in got.choices] == wanted
    assert [choice.index for choice in got.choices] == [0, 1, 2, 3]


def test_ids_are_a_prompt_too(server, offline):
    _, tokenizer = offline.models["base"]
    ids = tokenizer(PROMPTS[0])["input_ids"]
    got = server.client().completions.create(model="base", prompt=[ids, ids[:4]], temperature=0)
    assert [choice.text for choice in got.choices] == offline(
        "base", [PROMPTS[0], tokenizer.decode(ids[:4])], max_new_tokens=16, raw=True
    )


def test_long_prompts_come_in_pieces(server, offline, monkeypatch):
    monkeypatch.setattr("luthier.serve.engine.PREFILL", 7)
    prompt = " ".join(PROMPTS) * 2
    assert (
        chat(server.client(), "second", prompt).choices[0].message.content
        == offline("second", [prompt], max_new_tokens=24)[0]
    )


def test_drawn_replies_are_repeated_by_their_seed(server, offline):
    words = {"temperature": 0.8, "top_p": 0.9}
    got = chat(server.client(), "first", PROMPTS[0], n=3, seed=5, **words)
    again = chat(server.client(), "first", PROMPTS[0], n=3, seed=5, **words)
    texts = [choice.message.content for choice in got.choices]
    assert texts == [choice.message.content for choice in again.choices]
    assert len(set(texts)) == 3
    # Reply k to one prompt draws what `luthier generate` draws for its prompt k.
    assert texts == offline("first", [PROMPTS[0]] * 3, max_new_tokens=24, seed=5, **words)
    assert chat(server.client(), "first", PROMPTS[0], seed=6, **words).choices[0].message.content not in texts


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings(server, offline, stream):
    whole = offline("first", PROMPTS[:1], max_new_tokens=24)[0]
    stop = whole[6:9]
    got = chat(server.client(), "first", PROMPTS[0], stop=[stop, "never"], stream=stream)
    if stream:
        chunks = list(got)
        text, reason = text_of(chunks), chunks[-1].choices[0].finish_reason
    else:
        text, reason = got.choices[0].message.content, got.choices[0].finish_reason
    assert text == whole[: whole.find(stop)].rstrip()
    assert reason == "stop"


def test_streams_say_who_how_and_how_much(server, offline):
    chunks = list(chat(server.client(), "first", PROMPTS[0], stream=True, n=2, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == []
    whole = chat(server.client(), "first", PROMPTS[0], n=2)
    assert chunks[-1].usage == whole.usage
    ended = [(c.choices[0].index, c.choices[0].finish_reason) for c in chunks[:-1] if c.choices[0].finish_reason]
    assert sorted(ended) == [(place, choice.finish_reason) for place, choice in enumerate(whole.choices)]
    for place, choice in enumerate(whole.choices):
        assert text_of(c for c in chunks[:-1] if c.choices[0].index == place) == choice.message.content


def test_usage_counts_tokens(server, offline):
    _, tokenizer = offline.models["base"]
    got = chat(server.client(), "base", PROMPTS[0], max_tokens=5)
    turns = [{"role": "user", "content": PROMPTS[0]}]
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert got.usage.prompt_tokens == len(prompt)
    assert got.usage.completion_tokens == 5
    assert got.usage.total_tokens == len(prompt) + 5
    assert got.choices[0].finish_reason == "length"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logprobs_are_those_of_a_forward(server, offline, name, temperature):
    model, tokenizer = offline.models[name]
    words = {"max_tokens": 6, "temperature": temperature, "seed": 3, "logprobs": True, "top_logprobs": 4}
    got = chat(server.client(), name, PROMPTS[0], **words).choices[0].logprobs.content
    ids = server.client().completions.create(
        model=name, prompt=PROMPTS[0], max_tokens=6, temperature=temperature, seed=3, logprobs=4
    )
    turns = [{"role": "user", "content": PROMPTS[0]}]
    for told, prompt in (
        (
            [(one.logprob, [top.logprob for top in one.top_logprobs]) for one in got],
            tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"],
        ),
        (
            [
                (logprob, sorted(top.values(), reverse=True))
                for logprob, top in zip(
                    ids.choices[0].logprobs.token_logprobs, ids.choices[0].logprobs.top_logprobs, strict=True
                )
            ],
            tokenizer(PROMPTS[0])["input_ids"],
        ),
    ):
        _equals_forward(model, list(prompt), told)


def _equals_forward(model, ids, told):
    from luthier.models.backbone import serving

    for logprob, top in told:
        with serving(model), torch.no_grad():
            logps = torch.log_softmax(model(torch.tensor([ids]), use_cache=False).logits[0, -1].float(), -1)
        wanted = logps.topk(4).values
        torch.testing.assert_close(torch.tensor(top), wanted[: len(top)], atol=2e-4, rtol=0)
        token = int((logps - logprob).abs().argmin())
        torch.testing.assert_close(torch.tensor(logprob), logps[token], atol=2e-4, rtol=0)
        ids = [*ids, token]
