# SPDX-License-Identifier: Apache-2.0
"""Suites of log-probabilities equal a forward of transformers for each choice alone, and lm-eval's own numbers."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest

import luthier
from luthier.evaluate import evaluate, load_suite

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")

WORDS = ("the", "cat", "sat", "on", "a", "mat", "and", "ran", "far", "away", "it", "was", "late")


@pytest.fixture(scope="module")
def loaded(tiny_llama):
    return luthier.load(tiny_llama, "float32")


@pytest.fixture(scope="module")
def own(tiny_llama):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32).eval()


def naive(own, tokenizer, context: str, continuation: str) -> tuple[float, bool]:
    """As lm-evaluation-harness splits tokens (`_encode_pair`), with one forward of the model alone."""
    spaces = len(context) - len(context.rstrip(" "))
    if spaces:
        context, continuation = context[:-spaces], context[-spaces:] + continuation
    whole = tokenizer(context + continuation)["input_ids"]
    first = len(tokenizer(context)["input_ids"]) if context else 0
    if not first:
        whole, first = [tokenizer.bos_token_id or tokenizer.eos_token_id, *whole], 1
    with torch.no_grad():
        logits = own(input_ids=torch.tensor([whole])).logits[0, :-1].double()
    target = torch.tensor(whole[1:])
    logprobs = torch.log_softmax(logits, -1).gather(-1, target[:, None])[:, 0]
    return float(logprobs[first - 1 :].sum()), bool((logits.argmax(-1) == target)[first - 1 :].all())


def text(draw, most: int) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(1, most)))


@pytest.fixture(scope="module")
def choices(tmp_path_factory):
    draw = random.Random(3)
    file = tmp_path_factory.mktemp("suites") / "choices.jsonl"
    rows = [
        {
            "query": text(draw, 9) + " " * (n % 2),
            "choices": [text(draw, 4) for _ in range(2 + n % 3)],
            "gold": n % 2,
            "kind": "ab"[n % 2],
        }
        for n in range(8)
    ]
    rows[0]["query"] = ""  # the choice stands at the beginning of a text
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return file, rows


def test_multiple_choice_equals_a_forward_for_each_choice(loaded, own, choices):
    file, rows = choices
    model, tokenizer = loaded
    found = evaluate(model, tokenizer, load_suite({"multiple_choice": str(file), "category": "{kind}"}))
    for row, said in zip(rows, found.rows, strict=True):
        alone = [naive(own, tokenizer, row["query"], " " + choice)[0] for choice in row["choices"]]
        assert said["logprobs"] == pytest.approx(alone, abs=1e-5)
        assert said["picked"] == int(np.argmax(alone))
        assert said["picked_norm"] == int(np.argmax(np.array(alone) / [len(choice) for choice in row["choices"]]))
    told = found.to_json()
    right = [said["picked"] == row["gold"] for row, said in zip(rows, found.rows, strict=True)]
    assert (told["metric"], told["value"]) == ("acc", pytest.approx(np.mean(right)))
    assert told["by_category"]["a"]["value"] == pytest.approx(np.mean(right[::2]))
    assert model.training is False


def test_contexts_as_choices_and_endings_word_for_word(loaded, own, choices, tmp_path):
    model, tokenizer = loaded
    draw = random.Random(5)
    shared = "the cat that sat on it because"
    rows = [{"contexts": [f"{shared} {name} was" for name in ("it", "a mat")], "end": text(draw, 5), "right": "a mat"}]
    rows = [row | {"right": row["contexts"][1]} for row in rows * 3]
    file = tmp_path / "wino.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    keys = {"contexts": "contexts", "continuation": "{end}", "gold": "right"}
    found = evaluate(model, tokenizer, load_suite({"multiple_choice": str(file), **keys}))
    alone = [naive(own, tokenizer, context, " " + rows[0]["end"])[0] for context in rows[0]["contexts"]]
    assert found.rows[0]["logprobs"] == pytest.approx(alone, abs=1e-5)
    assert found.rows[0]["gold"] == 1
    keys = {"context": "{query}", "continuation": "{gold}", "metric": "token_probability"}
    suite = load_suite({"cloze": str(choices[0]), **keys})
    found = evaluate(model, tokenizer, suite)
    pairs = [naive(own, tokenizer, row["query"], f" {row['gold']}") for row in choices[1]]
    assert [row["logprob"] for row in found.rows] == pytest.approx([one for one, _ in pairs], abs=1e-5)
    assert [row["likeliest"] for row in found.rows] == [right for _, right in pairs]
    assert found.judged.value == pytest.approx(math.exp(np.mean([one for one, _ in pairs])))


@pytest.mark.parametrize("stride", [None, 8])
def test_perplexity_equals_windows_one_by_one(loaded, own, tmp_path, stride):
    model, tokenizer = loaded
    draw = random.Random(7)
    texts = [text(draw, 30) + "…\n Ende" for _ in range(4)]
    file = tmp_path / "texts.jsonl"
    file.write_text("\n".join(json.dumps({"text": one}) for one in texts), encoding="utf-8")
    found = evaluate(model, tokenizer, load_suite({"perplexity": str(file), "max_length": 20, "stride": stride}))
    start = tokenizer.bos_token_id or tokenizer.eos_token_id
    step, total, tokens = stride or 19, 0.0, 0
    for one, row in zip(texts, found.rows, strict=True):
        ids, own_total, done = [start, *tokenizer(one)["input_ids"]], 0.0, 1
        for begin in range(0, len(ids), step):
            part = ids[begin : begin + 20]
            with torch.no_grad():
                logits = own(input_ids=torch.tensor([part])).logits[0, :-1].double()
            each = torch.log_softmax(logits, -1).gather(-1, torch.tensor(part[1:])[:, None])[:, 0]
            own_total += float(each[done - begin - 1 :].sum())
            done = begin + len(part)
            if done == len(ids):
                break
        assert row["logprob"] == pytest.approx(own_total, abs=1e-4)
        assert (row["tokens"], row["bytes"], row["words"]) == (len(ids) - 1, len(one.encode()), len(one.split()))
        total, tokens = total + own_total, tokens + len(ids) - 1
    assert found.judged.metrics["perplexity"] == pytest.approx(math.exp(-total / tokens), rel=1e-5)
    size = sum(len(one.encode()) for one in texts)
    assert found.judged.metrics["bits_per_byte"] == pytest.approx(-total / size / math.log(2), rel=1e-5)
    assert found.judged.metrics["token_probability"] == pytest.approx(math.exp(total / tokens), rel=1e-5)


def test_perplexity_of_conversations_is_that_of_their_answers(loaded, own, tmp_path):
    model, tokenizer = loaded
    file = tmp_path / "chats.jsonl"
    file.write_text(json.dumps({"instruction": "the cat?", "output": "it ran away"}), encoding="utf-8")
    (row,) = evaluate(model, tokenizer, load_suite({"perplexity": str(file)})).rows
    turns = [{"role": "user", "content": "the cat?"}]
    context = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert row["logprob"] == pytest.approx(naive(own, tokenizer, context, "it ran away<|end|>")[0], abs=1e-5)
    assert (row["text"], row["bytes"]) == ("it ran away", 11)
    keys = {"prompt": "{instruction}", "choices": ["it ran away", "a mat"], "gold": "output", "chat": True}
    (row,) = evaluate(model, tokenizer, load_suite({"multiple_choice": str(file), **keys})).rows
    assert row["logprobs"][0] == pytest.approx(naive(own, tokenizer, context, "it ran away")[0], abs=1e-5)


TASK = """
task: mine
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{query}}}}"
doc_to_choice: choices
doc_to_target: gold
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""


def test_a_task_of_lm_eval_gives_its_own_numbers(loaded, choices, tiny_llama, tmp_path, monkeypatch):
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    rows = [row | {"query": row["query"] or "it"} for row in choices[1]]
    used = tmp_path / "rows.jsonl"
    used.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(TASK.format(file=used), encoding="utf-8")
    suite = load_suite({"lm_eval": "mine", "include_path": str(tmp_path)})
    found = evaluate(*loaded, suite)
    from luthier.evaluate.harness import task_manager

    theirs = simple_evaluate(
        model=HFLM(pretrained=str(tiny_llama), dtype="float32", device="cpu", batch_size=1),
        tasks=["mine"],
        task_manager=task_manager(str(tmp_path), "mine", "test"),
        bootstrap_iters=0,
    )
    told = theirs["results"]["mine"]
    assert found.judged.metrics["acc"] == pytest.approx(told["acc,none"])
    assert found.judged.metrics["acc_norm"] == pytest.approx(told["acc_norm,none"])
    said = [[float(one[0][0]) for one in sample["resps"]] for sample in theirs["samples"]["mine"]]
    ours = evaluate(*loaded, load_suite({"multiple_choice": str(used)}))
    for row, logprobs in zip(ours.rows, said, strict=True):
        assert row["logprobs"] == pytest.approx(logprobs, abs=1e-4)
