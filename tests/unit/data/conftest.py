# SPDX-License-Identifier: Apache-2.0
"""Small tokenizers of the three kinds that are in use, made from a few lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.data.judged_pairs import PAIRS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from luthier.data import prepare
from luthier.data.vocabulary import vocabulary
from luthier.recipe.schema import Data

LINES = [
    "What is the capital of France? The capital of France is Paris.",
    "Translate good morning to Spanish. buenos dias",
    "### Instruction: ### Response: USER: ASSISTANT: Q: A: [INST] [/INST] user assistant system",
    "Name three colours: red, green and blue. What is 2 + 2? It is 4.",
]

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def _fast(raw: Tokenizer, **special: Any):
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=raw, **special)


def _byte_level(special: list[str]) -> Tokenizer:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.post_processor = processors.ByteLevel(trim_offsets=True)  # as in GPT-2: offsets leave out leading spaces
    trainer = trainers.BpeTrainer(
        vocab_size=380,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(LINES * 3, trainer)
    return raw


@pytest.fixture(scope="session")
def _byte_level_gpt2() -> Tokenizer:
    return _byte_level(["<|endoftext|>"])


@pytest.fixture
def gpt2(_byte_level_gpt2):
    """As GPT-2: byte-level, one special token that is BOS and EOS and is never added, no template."""
    raw = Tokenizer.from_str(_byte_level_gpt2.to_str())
    return _fast(raw, bos_token="<|endoftext|>", eos_token="<|endoftext|>")


@pytest.fixture(scope="session")
def _byte_level_qwen() -> Tokenizer:
    return _byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])


@pytest.fixture
def qwen(_byte_level_qwen):
    """As Qwen 1.5: byte-level, no BOS, turns end with another token than EOS, ChatML template."""
    raw = Tokenizer.from_str(_byte_level_qwen.to_str())
    return _fast(raw, eos_token="<|endoftext|>", chat_template=CHATML)


@pytest.fixture(scope="session")
def _sentencepiece() -> Tokenizer:
    raw = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    splitting = Tokenizer(models.BPE(unk_token="<unk>"))
    splitting.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=True)
    splitting.train_from_iterator(
        LINES * 3, trainers.BpeTrainer(vocab_size=480, special_tokens=special, show_progress=False)
    )
    learned = json.loads(splitting.to_str())["model"]
    merges = [tuple(pair) for pair in learned["merges"]]
    raw.model = models.BPE(learned["vocab"], merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    raw.add_special_tokens(["<unk>", "<s>", "</s>"])
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", raw.token_to_id("<s>"))]
    )
    return raw


@pytest.fixture
def llama(_sentencepiece):
    """As Llama 2: one word per text with byte fallback, BOS added on its own, no template."""
    raw = Tokenizer.from_str(_sentencepiece.to_str())
    return _fast(raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture(params=["gpt2", "qwen", "llama"])
def any_tokenizer(request):
    """Each kind in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep every test's cache to itself."""
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def said() -> list[str]:
    """What was said aloud."""
    return []


@pytest.fixture
def write(tmp_path: Path):
    """Write rows as JSON Lines and return the path."""

    def _write(*rows: Any, name: str = "rows.jsonl") -> str:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return str(file)

    return _write


@pytest.fixture
def prepared(said, qwen):
    """Prepare files with the Qwen-like tokenizer unless another is given."""

    def _prepared(train: Any, tokenizer: Any = None, **keys: Any):
        data = Data(train=train, **keys)
        return prepare(data, tokenizer or qwen, which="train", say=said.append)

    return _prepared


@pytest.fixture
def facts():
    """Read the facts of a tokenizer."""
    return vocabulary


@pytest.fixture
def pairs(write, prepared):
    """Nine pairs, prepared."""
    return prepared(write(*PAIRS))
