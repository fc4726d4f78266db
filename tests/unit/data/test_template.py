# SPDX-License-Identifier: Apache-2.0
"""The recipe's chat template, found and fitted to a tokenizer."""

from __future__ import annotations

import pytest

from luthier.core import registry
from luthier.core.errors import DataError, RecipeError
from luthier.data.template import resolve
from luthier.data.vocabulary import vocabulary

CHAT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def rendered(name, tokenizer, say=lambda _: None) -> str:
    template = resolve(name, tokenizer, vocabulary(tokenizer), say)
    return tokenizer.apply_chat_template(CHAT, chat_template=template.source, tokenize=False)


def test_auto_is_the_tokenizers_own(qwen, gpt2):
    assert resolve("auto", qwen, vocabulary(qwen), print).source == qwen.chat_template
    assert resolve("auto", gpt2, vocabulary(gpt2), print) is None


def test_a_template_per_use(qwen):
    qwen.chat_template = {"default": "{{ 'plain' }}", "tool_use": "{{ 'tools' }}"}
    assert rendered("auto", qwen) == "plain"


def test_a_file(tmp_path, qwen):
    (tmp_path / "own.jinja").write_text("{{ messages[0]['content'] + '<|im_end|>' }}")
    assert rendered(f"{tmp_path}/own.jinja", qwen) == "a<|im_end|>"
    with pytest.raises(DataError, match=r"data\.chat_template 'not/there\.jinja': cannot be read"):
        rendered("not/there.jinja", qwen)


def test_jinja_itself(qwen):
    assert rendered("{% for message in messages %}{{ message.content }}/{% endfor %}", qwen) == "a/b/"


def test_an_unknown_name(qwen):
    with pytest.raises(RecipeError, match=r"data\.chat_template: unknown name 'chatlm'; did you mean 'chatml'\?"):
        rendered("chatlm", qwen)


def test_bos_comes_first_where_the_tokenizer_adds_one(llama, gpt2, qwen):
    for name in registry.entries("data.templates"):
        assert rendered(name, llama).count("<s>") == 1
        assert rendered(name, llama).startswith("<s>")
        assert not rendered(name, qwen).startswith("<|endoftext|>")
    assert not rendered("plain", gpt2).startswith("<|endoftext|>")


def test_a_missing_end_of_turn_becomes_eos_and_is_said(gpt2, said):
    text = rendered("chatml", gpt2, said.append)
    assert text.rstrip().endswith("b<|endoftext|>")
    assert "<|im_end|>" not in text
    assert said == ["chat template chatml: <|im_end|> is not a token of this tokenizer; "
                    "turns end with its eos_token <|endoftext|> instead"]  # fmt: skip


def test_nothing_is_said_where_the_token_is_there(qwen, said):
    assert rendered("chatml", qwen, said.append).rstrip().endswith("b<|im_end|>")
    assert said == []


@pytest.mark.parametrize("name", ["chatml", "plain"])
def test_a_tokenizer_without_eos(gpt2, name):
    gpt2.eos_token = None
    with pytest.raises(DataError, match="eos_token"):
        rendered(name, gpt2)


@pytest.mark.parametrize("name", ["alpaca", "gemma", "llama2", "mistral", "plain", "vicuna"])
def test_unknown_roles_are_refused(qwen, name):
    template = resolve(name, qwen, vocabulary(qwen), lambda _: None)
    with pytest.raises(Exception, match=f"no role tool in the {name} template"):
        qwen.apply_chat_template([{"role": "tool", "content": "a"}], chat_template=template.source, tokenize=False)


PUBLISHED = {
    "chatml": "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n",
    "llama2": "<s>[INST] a [/INST] b </s>",
    "mistral": "<s>[INST] a [/INST] b</s>",
    "zephyr": "<|user|>\na</s>\n<|assistant|>\nb</s>\n",
    "phi3": "<|user|>\na<|end|>\n<|assistant|>\nb<|end|>\n",
    "gemma": "<start_of_turn>user\na<end_of_turn>\n<start_of_turn>model\nb<end_of_turn>\n",
    "llama3": "<|start_header_id|>user<|end_header_id|>\n\na<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nb<|eot_id|>",
    "vicuna": "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions. USER: a ASSISTANT: b</s>",
    "alpaca": "Below is an instruction that describes a task. Write a response that appropriately completes the "
    "request.\n\n### Instruction:\na\n\n### Response:\nb</s>\n\n",
    "plain": "Q: a\nA: b</s>\n",
}


@pytest.mark.parametrize("name", registry.entries("data.templates"))
def test_templates_are_the_published_ones(llama, name):
    end = registry.get("data.templates", name).END
    text = rendered(name, llama)
    expected = PUBLISHED[name].replace("</s>" if end == "eos_token" else end, "</s>")
    assert text == expected or text == "<s>" + expected
