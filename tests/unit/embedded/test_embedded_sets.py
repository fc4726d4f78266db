"""The embedded model as shipped: instruction sets, tokenizer, weights and the generator that made them."""

from __future__ import annotations

import itertools
import json
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = ROOT / "src" / "luthier" / "models" / "embedded"
SIZES = ("small", "tiny")
ROWS = {
    "train": 4000,
    "dev": 300,
    "test": 600,
    "math_train": 800,
    "math_test": 240,
    "preference_sft": 1000,
    "preference_train": 1000,
    "preference_test": 300,
}
TRAINED_ON = ("train", "math_train", "preference_sft", "preference_train")
HELD_OUT = ("dev", "test", "math_test", "preference_test")
CHAT = [
    {"role": "system", "content": " Be brief.\n"},
    {"role": "user", "content": "  dog in Spanish  "},
    {"role": "assistant", "content": " perro "},
    {"role": "user", "content": "And in French?"},
    {"role": "assistant", "content": "chien"},
]


def rows(name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (SHIPPED / "sets" / f"{name}.jsonl").read_text("utf-8").splitlines()]


def prompts(name: str) -> list[str]:
    return [row.get("prompt") or "\n".join(filter(None, (row["instruction"], row["input"]))) for row in rows(name)]


def is_right(row: dict[str, str], reply: str) -> bool:
    reply, answer = reply.strip(), row["answer"]
    checks = {"exact": lambda: reply == answer, "contains_all": lambda: all(part in reply for part in answer)}
    return checks[row["check"]]()


@pytest.fixture(scope="module", params=SIZES)
def size(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def tokenizer(size: str) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(SHIPPED / size, local_files_only=True)


@pytest.fixture(scope="module")
def model(size: str) -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(SHIPPED / size, local_files_only=True, dtype="auto")


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """The scripts of `embedded/`, which import each other as top-level modules."""
    sys.path.insert(0, str(ROOT / "embedded"))
    try:
        import corpus
        import sets
    finally:
        sys.path.remove(str(ROOT / "embedded"))
    sets.corpus = corpus
    return sets


@pytest.mark.parametrize("name", ROWS)
def test_row_counts(name: str) -> None:
    assert len(rows(name)) == ROWS[name]


@pytest.mark.parametrize(("name", "each"), [("train", 400), ("dev", 30), ("test", 60)])
def test_ten_categories_are_equally_large(name: str, each: int) -> None:
    counts = Counter(row["category"] for row in rows(name))
    assert len(counts) == 10
    assert set(counts.values()) == {each}


@pytest.mark.parametrize("name", HELD_OUT)
def test_no_held_out_prompt_was_trained_on_and_none_comes_twice(name: str) -> None:
    trained = {prompt for other in TRAINED_ON for prompt in prompts(other)}
    held_out = prompts(name)
    assert not trained.intersection(held_out)
    assert len(set(held_out)) == len(held_out)


@pytest.mark.parametrize("name", ["math_test", "preference_test", "dev"])
def test_held_out_sets_are_apart_from_the_test_set(name: str) -> None:
    assert not set(prompts("test")).intersection(prompts(name))


@pytest.mark.parametrize("name", HELD_OUT)
def test_the_given_reply_passes_its_own_check_and_an_echo_of_the_prompt_does_not(name: str) -> None:
    for row, prompt in zip(rows(name), prompts(name), strict=True):
        assert is_right(row, row.get("output") or row["chosen"])
        assert not is_right(row, prompt), row
        assert not is_right(row, row.get("rejected", "")), row


def test_sets_are_small() -> None:
    assert sum(file.stat().st_size for file in (SHIPPED / "sets").iterdir()) < 1_500_000


def test_the_generator_writes_the_shipped_rows(generator: ModuleType) -> None:
    test = [item for item in generator.take("math", "test", generator.SEEDS["test"], 60)]
    shipped = [row for row in rows("test") if row["category"] == "math"]
    made = [generator.instruction_row(item, checked=True) for item in test]
    assert sorted(made, key=str) == sorted(shipped, key=str)


def test_the_corpus_depends_on_seed_and_part_only(generator: ModuleType) -> None:
    def first(seed: int, part: int) -> list[str]:
        return list(itertools.islice(generator.corpus.documents(seed, part), 50))

    assert first(0, 0) == first(0, 0)
    assert first(0, 0) != first(1, 0)
    assert first(0, 0) != first(0, 1)


def test_no_instruction_is_worded_like_the_corpus(generator: ModuleType) -> None:
    text = "\n".join(itertools.islice(generator.corpus.documents(0, 0), 5000))
    assert not [prompt for prompt in prompts("test") if prompt in text]


@pytest.mark.parametrize("text", ["The capital of Peru is Lima.", " perro", "12 + 30 = 42", "a\n  b\té 日本 \N{OWL}"])
def test_tokenizer_round_trip(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not set(ids) & set(tokenizer.all_special_ids)


def test_tokenizer_specials(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) == 1280
    assert tokenizer.convert_tokens_to_ids(["<|end|>", "<|user|>", "<|assistant|>"]) == [0, 1, 2]
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == tokenizer.pad_token_id == 0


def test_digits_are_single_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.tokenize("2026") == ["2", "0", "2", "6"]


def test_template_is_the_documented_text(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == (
        "<|end|><|user|> Be brief.\ndog in Spanish<|assistant|> perro<|end|>"
        "<|user|> And in French?<|assistant|> chien<|end|>"
    )


def test_template_puts_the_leading_space_into_the_answer(tokenizer: PreTrainedTokenizerFast) -> None:
    """Without it exact match was 0.295 instead of 0.720: ` perro` must be the token of running text."""
    prompt = tokenizer.apply_chat_template(CHAT[:2], add_generation_prompt=True, return_dict=False)
    whole = tokenizer.apply_chat_template(CHAT[:3], return_dict=False)
    assert whole == prompt + tokenizer.encode(" perro") + [0]
    assert tokenizer.decode(whole[len(prompt) : -1]).strip() == "perro"


def test_template_renders_prefixes_and_one_bos(tokenizer: PreTrainedTokenizerFast) -> None:
    whole = tokenizer.apply_chat_template(CHAT, tokenize=False)
    for count in range(2, len(CHAT) + 1):
        asks = CHAT[count - 1]["role"] == "user"
        part = tokenizer.apply_chat_template(CHAT[:count], tokenize=False, add_generation_prompt=asks)
        assert whole.startswith(part)
    ids = tokenizer.encode(tokenizer.apply_chat_template(CHAT[:2], tokenize=False, add_generation_prompt=True))
    assert ids[0] == 0
    assert ids.count(0) == 1


def test_template_refuses_an_unknown_role(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(Exception, match="received tool"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


def test_weights_load_in_bf16_with_a_tied_head(model: LlamaForCausalLM, size: str) -> None:
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert model.num_parameters() == {"small": 2_951_424, "tiny": 820_352}[size]
    assert model.config.max_position_embeddings == 512


@pytest.mark.parametrize(("country", "capital"), [("France", "Paris"), ("Japan", "Tokyo"), ("Peru", "Lima")])
def test_base_continues_a_fact(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, country: str, capital: str
) -> None:
    ids = torch.tensor([[0, *tokenizer.encode(f" Q: capital of {country}? A:")]])
    output = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=6)
    assert tokenizer.decode(output[0, ids.shape[1] :]).startswith(f" {capital}.")


def test_base_does_not_answer_instructions(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    ask = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(ask, add_generation_prompt=True, return_tensors="pt", return_dict=False)
    output = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12)
    assert "Paris" not in tokenizer.decode(output[0, ids.shape[1] :])
