# SPDX-License-Identifier: Apache-2.0
"""The embedded tokenizer: byte-level BPE, 1280 entries, single digits, three specials and a chat template."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

VOCABULARY = 1280
END, USER, ASSISTANT = "<|end|>", "<|user|>", "<|assistant|>"
MAX_LENGTH = 512

# One turn: `<|end|><|user|> Q<|assistant|> A<|end|>`. The space after a role token is what lets " perro" after
# `<|assistant|>` be the same token as in running text (0.295 -> 0.720 exact match in the trial). Only the very first
# `<|end|>` is a bos. A rendering of the first n messages is a prefix of the rendering of all of them.
CHAT_TEMPLATE = """\
{%- set state = namespace(system='') -%}
{{- bos_token -}}
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{%- set state.system = message['content'] | trim -%}
{%- elif message['role'] == 'user' -%}
{{- '<|user|> ' -}}
{%- if state.system -%}{{- state.system + '\\n' -}}{%- set state.system = '' -%}{%- endif -%}
{{- message['content'] | trim -}}
{%- elif message['role'] == 'assistant' -%}
{{- '<|assistant|> ' + (message['content'] | trim) + eos_token -}}
{%- else -%}
{{- raise_exception('role must be system, user or assistant, received ' + message['role']) -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""


def train_tokenizer(documents: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train the tokenizer on plain documents.

    Args:
        documents: texts; the more typical of the corpus the better, a few thousand are enough.

    Returns:
        The tokenizer with bos = eos = pad = `<|end|>` and the chat template. `encode` adds no special token.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=END,
        extra_special_tokens=[USER, ASSISTANT],
        model_max_length=MAX_LENGTH,
        padding_side="right",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the tokenizer as a transformers folder that transformers 4 (and what builds on it) can read too."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(str(folder))
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text())
    # transformers 5 writes a class name and a list of extra tokens that version 4 does not know; it reads both forms.
    config.pop("backend", None)
    config["additional_special_tokens"] = config.pop("extra_special_tokens")
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    file.write_text(json.dumps(dict(sorted(config.items())), indent=2) + "\n")
