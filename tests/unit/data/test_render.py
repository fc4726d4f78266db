# SPDX-License-Identifier: Apache-2.0
"""What is scored: exactly the answers and the token that ends them."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luthier.core import registry
from luthier.core.types import Completion, Conversation, Message, Text
from luthier.data.faults import RowFault
from luthier.data.fill import Context
from luthier.data.kinds.plain import texts as render
from luthier.data.render import CHANGES_EARLIER_TURNS, Renderer
from luthier.data.template import ChatTemplate, resolve
from luthier.data.tokens import Tokens, encode
from luthier.data.vocabulary import vocabulary
from luthier.recipe.schema import Data

TEMPLATES = [*registry.entries("data.templates")]


def chat(*contents: str, system: str | None = None, scored: tuple[bool, ...] = ()) -> Conversation:
    """Make a conversation of contents in turn, user first."""
    first = [Message(role="system", content=system)] if system is not None else []
    flags = [*scored, *[True] * len(contents)]
    turns = [
        Message(role="assistant" if i % 2 else "user", content=text, scored=flags[i // 2] if i % 2 else True)
        for i, text in enumerate(contents)
    ]
    return Conversation(messages=(*first, *turns))


def renderer(tokenizer, template: str = "chatml", loss_on: str = "assistant", system: str | None = None) -> Renderer:
    words = vocabulary(tokenizer)
    found = ChatTemplate(name="given", source=template) if "{" in template else None
    found = found or resolve(template, tokenizer, words, lambda _: None)
    return Renderer(tokenizer, words, found, loss_on, system)


def context(tokenizer, own: Renderer | None = None, loss_on: str | None = None) -> Context:
    data = Data(train="x", loss_on=loss_on or "assistant")
    return Context(data=data, tokenizer=tokenizer, vocabulary=vocabulary(tokenizer), renderer=own, say=print)


def tokens(tokenizer, example, **options) -> Tokens:
    own = renderer(tokenizer, **options) if isinstance(example, Conversation) else None
    item = encode(vocabulary(tokenizer), render(context(tokenizer, own, options.get("loss_on")), [example]))[0]
    assert isinstance(item, Tokens), item
    return item


def plain(example: Conversation) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in example.messages]


def runs(tokenizer, item: Tokens) -> list[str]:
    """Decode each run of scored tokens."""
    found, run = [], []
    for token, scored in zip(item.ids.tolist(), item.scored.tolist(), strict=True):
        if scored:
            run.append(token)
        elif run:
            found.append(tokenizer.decode(run))
            run = []
    return found + ([tokenizer.decode(run)] if run else [])


MULTI = chat("Hi there", "Hello <b>you</b>", "2 + 2?", "It is 4.", system="Be brief.")


def test_answers_and_their_ends_are_scored(qwen):
    assert runs(qwen, tokens(qwen, MULTI)) == ["Hello <b>you</b><|im_end|>", "It is 4.<|im_end|>"]


def test_loss_on_last(qwen):
    assert runs(qwen, tokens(qwen, MULTI, loss_on="last")) == ["It is 4.<|im_end|>"]


def test_loss_on_all_leaves_out_the_first_token_and_the_last_line_break(qwen):
    item = tokens(qwen, MULTI, loss_on="all")
    text = qwen.apply_chat_template(plain(MULTI), tokenize=False)
    assert runs(qwen, item) == [text.removeprefix("<|im_start|>").rstrip()]


def test_an_answer_can_ask_not_to_be_trained(qwen):
    item = tokens(qwen, chat("a", "first", "b", "second", scored=(False, True)))
    assert runs(qwen, item) == ["second<|im_end|>"]


def test_system_prompt_of_the_recipe(qwen):
    text = renderer(qwen, system="Speak French.")([chat("a", "b")])[0].text
    assert text.startswith("<|im_start|>system\nSpeak French.<|im_end|>")
    assert "Speak French." not in renderer(qwen, system="Speak French.")([MULTI])[0].text


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_scores_the_answers_with_every_tokenizer(any_tokenizer, name):
    item = tokens(any_tokenizer, MULTI, template=name)
    ends = {any_tokenizer.decode([i]) for i in vocabulary(any_tokenizer).ends}
    answers = []
    for run in runs(any_tokenizer, item):
        end = next(end for end in ends if run.endswith(end))
        answers.append(run.removesuffix(end).strip())
    assert answers == ["Hello <b>you</b>", "It is 4."]


@pytest.mark.parity
@pytest.mark.parametrize("name", TEMPLATES)
def test_tokens_are_those_of_apply_chat_template(any_tokenizer, name):
    own = renderer(any_tokenizer, template=name)
    served = any_tokenizer.apply_chat_template(plain(MULTI), chat_template=own.template.source, return_dict=False)
    assert tokens(any_tokenizer, MULTI, template=name).ids.tolist() == served


WORDS = st.text(st.sampled_from("ab <>|:#\nQA.é爱🐈"), min_size=1, max_size=12).filter(str.strip)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(contents=st.lists(WORDS, min_size=2, max_size=6).filter(lambda c: len(c) % 2 == 0), system=st.none() | WORDS)
@pytest.mark.parametrize("name", ["chatml", "llama2", "llama3", "plain", "vicuna", "mistral"])
def test_learned_spans_equal_prefix_rendering(qwen, name, contents, system):
    own = renderer(qwen, template=name)
    example = chat(*contents, system=system)
    item = own([example])[0]
    slow = own.prefixes(example.messages, item.text)
    trimmed = [item.text[start:end].rstrip() for start, end in item.spans]
    assert trimmed == [item.text[start:end].rstrip() for _, start, end in slow]
    assert [start for start, _ in item.spans] == [start for _, start, _ in slow]


TEXTS = st.text(st.sampled_from("ab  \n.é爱🐈<"), min_size=1, max_size=12)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompt=TEXTS, completion=TEXTS)
def test_a_token_is_scored_if_it_covers_a_scored_character(any_tokenizer, prompt, completion):
    item = tokens(any_tokenizer, Completion(prompt=prompt, completion=completion))
    encoding = any_tokenizer.backend_tokenizer.encode(prompt + completion)
    covering = [end > len(prompt) for _, end in encoding.offsets]
    # of a completion that the offsets leave out (white space) only EOS is scored, which closes every row
    first = [*covering, True].index(True)
    assert item.scored.tolist() == [first <= place and place > 0 for place in range(len(covering) + 1)]


GENERATION = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}{{ '<|im_start|>assistant\n' }}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


# no answer that begins with a space: transformers finds no token for it where offsets are trimmed, and masks nothing
@pytest.mark.parity
@pytest.mark.parametrize("answer", ["It is 4.", "spaced  ", "🐈 爱", "two\n\nlines"])
def test_mask_equals_the_one_of_generation_tags(qwen, answer):
    example = chat("2 + 2?", answer, "Sure?", "Yes")
    theirs = qwen.apply_chat_template(plain(example), chat_template=GENERATION, return_assistant_tokens_mask=True)
    item = tokens(qwen, example, template=GENERATION)
    assert item.ids.tolist() == theirs["input_ids"]
    assert item.scored.astype(int).tolist() == theirs["assistant_masks"]


PROMPT = "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
NO_END = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}" + PROMPT
END_EARLIER = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}"
    "{% if m['role'] == 'assistant' and not loop.last %}{{ eos_token }}{% endif %}{% endfor %}" + PROMPT
)
END_LAST = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + ' ' }}{% endfor %}"
    "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}" + PROMPT
)


def test_eos_is_appended_where_the_template_has_none(qwen):
    item = tokens(qwen, chat("a", "b", "c", "d"), template=NO_END)
    # the line break before the appended EOS is scored too: the model must write it to get there
    assert runs(qwen, item) == [" b", " d\n<|endoftext|>"]
    assert item.closed


def test_eos_behind_all_turns_but_the_last(qwen):
    item = tokens(qwen, chat("a", "b", "c", "d"), template=END_EARLIER)
    assert runs(qwen, item) == [" b<|endoftext|>", " d<|endoftext|>"]


def test_eos_behind_the_last_turn_only(qwen):
    item = tokens(qwen, chat("a", "b", "c", "d"), template=END_LAST)
    assert runs(qwen, item)[-1] == " d <|endoftext|>"
    assert runs(qwen, item)[0].strip() == "b"


FORGETS = (
    "{% for m in messages %}{{ m['role'] + ': ' }}"
    "{% if loop.last and m['role'] == 'assistant' %}{{ '<think></think>' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>' }}{% endfor %}" + PROMPT
)


def test_a_template_that_changes_earlier_turns_is_a_fault(qwen):
    fault = renderer(qwen, template=FORGETS)([chat("a", "b", "c", "d")])[0]
    assert isinstance(fault, RowFault)
    assert fault.reason == CHANGES_EARLIER_TURNS
    assert runs(qwen, tokens(qwen, chat("a", "b"), template=FORGETS)) == [" <think></think>b<|im_end|>"]


def test_loss_on_last_works_with_it(qwen):
    item = tokens(qwen, chat("a", "b", "c", "d"), template=FORGETS, loss_on="last")
    assert runs(qwen, item) == [" <think></think>d<|im_end|>"]


STRICT = "{% if messages[0]['content'] == 'no' %}{{ raise_exception('I do not like it') }}{% endif %}" + NO_END


def test_one_row_that_the_template_refuses_costs_that_row_alone(qwen):
    good, bad, last = renderer(qwen, template=STRICT)([chat("a", "b"), chat("no", "b"), chat("c", "d")])
    assert isinstance(bad, RowFault)
    assert (bad.reason, bad.detail) == ("the chat template refuses the row", "I do not like it")
    assert "a" in good.text
    assert "c" in last.text


def test_text_is_scored_but_its_first_token(any_tokenizer):
    item = tokens(any_tokenizer, Text(text="The capital of France"))
    assert item.scored.tolist() == [False] + [True] * (len(item.ids) - 1)
    assert item.ids[-1] == any_tokenizer.eos_token_id
    assert item.closed


def test_bos_begins_a_text_where_the_tokenizer_adds_it(llama, gpt2):
    assert tokens(llama, Text(text="The")).ids.tolist().count(llama.bos_token_id) == 1
    assert tokens(llama, Text(text="The")).ids[0] == llama.bos_token_id
    assert tokens(gpt2, Text(text="The")).ids[0] != gpt2.bos_token_id


def test_loss_on_all_scores_the_prompt_of_a_completion(qwen):
    item = tokens(qwen, Completion(prompt="The capital", completion=" of"), loss_on="all")
    assert item.scored.tolist() == [False] + [True] * (len(item.ids) - 1)


@pytest.mark.parametrize("end", ["", "<|endoftext|>"])
def test_a_completion_is_scored_with_one_eos(qwen, end):
    item = tokens(qwen, Completion(prompt="Q: 2 + 2?\nA:", completion=f" 4{end}"))
    assert runs(qwen, item) == [" 4<|endoftext|>"]
    assert item.ids.tolist().count(qwen.eos_token_id) == 1


def test_a_token_over_the_border_is_scored(gpt2):
    item = tokens(gpt2, Completion(prompt="The capital of ", completion="France"))  # " France" is one token
    assert runs(gpt2, item) == [" France<|endoftext|>"]


def test_half_a_surrogate_pair_costs_that_row_alone(qwen):
    items = encode(
        vocabulary(qwen), render(context(qwen), [Text(text="good"), Text(text="bad \ud83d"), Text(text="fine")])
    )
    assert [isinstance(item, RowFault) for item in items] == [False, True, False]
    assert "surrogate" in str(items[1])
