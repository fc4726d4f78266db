# SPDX-License-Identifier: Apache-2.0
"""Every test runs offline, seeded, on one thread, and writes only into temporary folders."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
from pathlib import Path

import pytest

# Before anything imports torch or transformers, which read these once. Processes that tests start inherit them.
_HOME = tempfile.TemporaryDirectory(prefix="luthier-tests-", ignore_cleanup_errors=True)
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_HOME": f"{_HOME.name}/huggingface",
    "LUTHIER_HOME": f"{_HOME.name}/luthier",
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_MODE": "offline",
    "OMP_NUM_THREADS": "1",  # pytest-xdist fills the cores; one thread also keeps sums in one order
}

from hypothesis import HealthCheck, settings  # noqa: E402 - reads the environment

# A first call may import torch (seconds), so a deadline would only measure that.
settings.register_profile("dev", deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("dev"), max_examples=100, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

SEED = 20_260_101


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests that need a GPU where there is none."""
    wanting = [item for item in items if item.get_closest_marker("gpu")]
    if not wanting:
        return
    import torch

    if not torch.cuda.is_available():
        for item in wanting:
            item.add_marker(pytest.mark.skip(reason="no GPU on this machine"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Give every test the same random numbers, in whichever order they run."""
    random.seed(SEED)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(SEED)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(SEED)


CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a transformers folder: a random Llama (0.1 M parameters) with a byte-level tokenizer and a chat template.

    Hidden 64, 2 layers, 4 heads, 2 key-value heads, vocabulary 300, untied head; end of turn and of text is `<|end|>`,
    there is no BOS, and `<|pad|>` pads. Copy the folder before you change it: the whole session shares it.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    tokenizer = _tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.1,  # with 0.02 attention is all but uniform, and a wrong mask or position hides below 1e-3
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tiny_tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    lines = [" ".join(row.values()) for row in _alpaca_rows()]
    special = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()  # all 256 bytes: any text can be encoded
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator(lines, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=512,
    )


@pytest.fixture(scope="session")
def alpaca_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 40 alpaca rows as JSONL: with and without input, one word to many lines, other scripts, quotes, emoji."""
    file = tmp_path_factory.mktemp("data") / "alpaca.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in _alpaca_rows()), encoding="utf-8")
    return file


def _alpaca_rows() -> list[dict[str, str]]:
    capitals = (
        "France Paris, Spain Madrid, Japan Tokyo, Peru Lima, Kenya Nairobi, Norway Oslo, Cuba Havana, Chad N'Djamena"
    )
    opposites = "hot cold, big small, early late, open closed, light dark, full empty, left right, up down"
    facts = [pair.split() for pair in capitals.split(", ")]
    words = [pair.split() for pair in opposites.split(", ")]
    told = [
        ("Translate to Chinese.", "good morning", "早上好"),
        ("Translate to Arabic.", "peace", "سلام"),
        ("Add an emoji to the sentence.", "The cat sleeps.", "The cat sleeps. 🐈"),
        ("Write a function that doubles a number.", "", "def double(x):\n    return 2 * x\n"),
        ("Quote the word.", "yes", 'He said "yes".'),
        ("List three colours, one a line.", "", "red\ngreen\nblue"),
        ("Repeat the letter a sixty times.", "", "a " * 60),
        ("Say nothing more than one letter.", "", "k"),
    ]
    rows = [(f"What is the capital of {land}?", "", f"The capital of {land} is {city}.") for land, city in facts]
    rows += [("Give the opposite.", word, other) for word, other in words]
    rows += [(f"What is {a} plus {a + 3}?", "", str(2 * a + 3)) for a in range(2, 10)]
    rows += [("Make it a question.", f"You like {word} days.", f"Do you like {word} days?") for word, _ in words]
    return [dict(zip(("instruction", "input", "output"), row, strict=True)) for row in rows + told]


def pytest_configure() -> None:
    """Hear Ctrl-C and hang-ups: under nohup or in a script's background they are ignored, and children inherit it."""
    for number in (signal.SIGINT, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
