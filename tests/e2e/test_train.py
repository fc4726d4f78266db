# SPDX-License-Identifier: Apache-2.0
"""`luthier train`: its loss curve is that of a loop written by hand, and its folder holds what it says."""

from __future__ import annotations

import json

import pytest
import torch
from tests.runs import Command, metrics, recipe_file, start, tree
from transformers import AutoModelForCausalLM, AutoTokenizer, get_scheduler

import luthier
from luthier.data import Batches, prepare
from luthier.recipe import load_recipe

STEPS, RATE, SEED = 10, 5e-3, 42


@pytest.fixture
def recipe(tiny_llama, alpaca_file, tmp_path):
    def make(name="run", **sections):
        train = {"max_steps": STEPS, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}
        optim = {"learning_rate": RATE, "weight_decay": 0.1, "warmup_steps": 2, "lr_scheduler_type": "cosine"}
        given = {"method": "full", "optim": optim, "train": train, "data": {"packing": False}} | sections
        return tree(tiny_llama, alpaca_file, tmp_path / name, **given)

    return make


def by_hand(model, recipe, tiny_llama):
    """Transformers, torch and a loop: padded micro-batches, cross-entropy over all labels of the step, AdamW."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    checked = load_recipe(recipe).recipe
    batches = Batches(prepare(checked.data, tokenizer, which="train").rows, checked.data, checked.train, SEED)
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in trained if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE)
    scheduler = get_scheduler("cosine", optimizer, num_warmup_steps=2, num_training_steps=STEPS)
    losses, norms = [], []
    model.train()
    for step in range(STEPS):
        micro_batches = [padded(trees) for trees in batches.step(step)]
        count = sum(int((labels != -100).sum()) for _, _, labels in micro_batches)
        total = 0.0
        for ids, mask, labels in micro_batches:
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].flatten(0, 1)
            loss = torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum") / count
            loss.backward()
            total += float(loss.detach())
        norms.append(float(torch.nn.utils.clip_grad_norm_(trained, 1.0)))
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(total)
    return losses, norms


def padded(trees):
    rows = [(torch.tensor(t.segments[0].ids).long(), torch.tensor(t.segments[0].scored)) for t in trees]
    pad = torch.nn.utils.rnn.pad_sequence
    ids = pad([tokens for tokens, _ in rows], batch_first=True)
    mask = pad([torch.ones_like(tokens) for tokens, _ in rows], batch_first=True)
    labels = [torch.where(scored, tokens, -100) for tokens, scored in rows]
    return ids, mask, pad(labels, batch_first=True, padding_value=-100)


@pytest.mark.e2e
@pytest.mark.parametrize("data", [{"packing": False}, {"packing": True, "max_length": 256}], ids=["padded", "packed"])
def test_full_fine_tuning_equals_a_loop_by_hand(recipe, tiny_llama, data):
    given = recipe(data=data)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32, attn_implementation="eager")
    losses, norms = by_hand(model, given, tiny_llama)
    result = luthier.train(given)
    found = metrics(result.folder)
    assert [line["loss"] for line in found] == pytest.approx(losses, abs=1e-5)
    assert [line["grad_norm"] for line in found] == pytest.approx(norms, rel=1e-4)
    assert losses[-1] < losses[0] - 1, "nothing was learned, so nothing was compared"
    trained = AutoModelForCausalLM.from_pretrained(result.folder / "model", dtype=torch.float32).state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.allclose(trained[name], tensor, atol=2e-4), name


@pytest.mark.e2e
def test_lora_equals_peft_and_a_loop_by_hand(recipe, tiny_llama):
    from peft import LoraConfig, get_peft_model

    from luthier.methods import lora
    from luthier.models import load_model
    from luthier.recipe import Model

    given = recipe(method={"name": "lora", "r": 8, "lora_alpha": 32})
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32, attn_implementation="eager")
    config = LoraConfig(r=8, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    theirs = get_peft_model(model, config)
    plain = load_model(Model(model_name_or_path=str(tiny_llama)), torch.float32)
    torch.manual_seed(SEED)  # as a run does before its method draws A
    ours = lora.apply(plain, lora.Config(r=8, lora_alpha=32)).parameters()
    with torch.no_grad():
        for name, parameter in ours.items():
            peft_name = "base_model.model." + name.replace(".weight", ".default.weight")
            theirs.get_parameter(peft_name).copy_(parameter)
    losses, _ = by_hand(theirs, given, tiny_llama)
    found = metrics(luthier.train(given).folder)
    assert [line["loss"] for line in found] == pytest.approx(losses, abs=1e-5)
    assert losses[-1] < losses[0] - 0.1


def test_what_a_run_leaves(recipe, alpaca_file, tmp_path):
    data = {"eval": [{"path": str(alpaca_file), "max_rows": 8}]}
    train = {"max_steps": 6, "logging_steps": 4, "eval_steps": 2, "save_steps": 2, "save_total_limit": 2}
    result = luthier.train(recipe(data=data, train=train))
    folder = result.folder
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == {
        "recipe.yaml", "metrics.jsonl", "ledger.json", "summary.json", "process.json", "checkpoints", "model",
    }  # fmt: skip
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"step-4", "step-6"}
    ledgers = json.loads((folder / "ledger.json").read_text())
    assert {name: found["total"]["read"] for name, found in ledgers.items()} == {"train": 40, "eval": 8}
    lines = metrics(folder)
    assert [(line["step"], "loss" in line) for line in lines] == [
        (2, False), (4, True), (4, False), (6, True), (6, False),
    ]  # fmt: skip
    summary = json.loads((folder / "summary.json").read_text())
    assert summary == result.summary
    assert summary["steps"] == 6
    assert summary["evaluation"]["loss"]["loss"]["value"] == lines[-1]["eval_loss"]
    assert summary["trainable_parameters"] == summary["total_parameters"]
    assert summary["tokens"] == lines[-2]["tokens"]
    assert summary["peak_memory_bytes"] > 0
    assert summary["tokens_per_second"] == pytest.approx(summary["tokens"] / summary["seconds"])
    assert load_recipe(folder / "recipe.yaml").fingerprint == summary["fingerprint"]


def test_the_logged_loss_is_the_mean_of_the_interval(recipe):
    """Each line is the mean over its steps' scored tokens; nothing else differs."""
    single = metrics(luthier.train(recipe("a")).folder)
    train = {"max_steps": STEPS, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}
    thrice = metrics(luthier.train(recipe("b", train=train | {"logging_steps": 3})).folder)
    assert [line["step"] for line in thrice] == [3, 6, 9, 10]
    counts = [0, *(line["scored_tokens"] for line in single)]
    for line in thrice:
        steps = range(line["step"] - 3 if line["step"] % 3 == 0 else 9, line["step"])
        units = [counts[step + 1] - counts[step] for step in steps]
        wanted = sum(single[step]["loss"] * n for step, n in zip(steps, units, strict=True)) / sum(units)
        assert line["loss"] == pytest.approx(wanted, rel=1e-12)
        assert line["learning_rate"] == single[line["step"] - 1]["learning_rate"]
        assert line["grad_norm"] == single[line["step"] - 1]["grad_norm"]


def test_a_result_can_be_loaded_and_trained_on(recipe, tmp_path):
    first = luthier.train(recipe(method={"name": "lora", "r": 4}))
    model, tokenizer = luthier.load(first.folder)
    assert tokenizer.chat_template == first.tokenizer.chat_template
    ids = torch.tensor([tokenizer("What is 3 plus 6?")["input_ids"]])
    from luthier.models import serving

    with serving(model), serving(first.model):
        assert torch.allclose(model(ids).logits, first.model(ids).logits, atol=1e-5)  # training runs on fused norms
    again = recipe("again", method={"name": "lora", "r": 4})
    again["model"] |= {"adapter_name_or_path": str(first.folder / "adapter")}
    begun = metrics(luthier.train(again).folder)[0]["loss"]
    assert begun < metrics(first.folder)[0]["loss"] - 0.5


@pytest.mark.e2e
def test_the_command_in_a_process_of_its_own(recipe, tmp_path):
    file = recipe_file(tmp_path, recipe(train={"max_steps": 2}))
    with start("train", file, "--json") as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    summary = json.loads(out)
    assert summary["steps"] == 2
    assert "step 2/2  loss " in err
    assert "tokens/s" in err
    assert not (tmp_path / "run" / "checkpoints" / ".writing-2").exists()


def test_words_on_the_command_line(recipe, tmp_path, capsys):
    said = Command(capsys)("train", recipe_file(tmp_path, recipe()), "train.max_steps=2", "seed=7", "--quiet")
    assert said.code == 0
    assert said.out.startswith("2 steps, ")
    assert said.out.endswith(f"written to {tmp_path / 'run' / 'model'}\n")
    text = (tmp_path / "run" / "recipe.yaml").read_text()
    assert "  max_steps: 2  # override" in text
    assert "  per_device_train_batch_size: 2  # recipe" in text
    assert "  save_steps: 0  # default" in text
    assert "seed: 7  # override" in text


def test_paths_are_relative_to_the_current_folder(recipe, tmp_path, alpaca_file, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "rows.jsonl").write_bytes(alpaca_file.read_bytes())
    monkeypatch.chdir(tmp_path / "here")
    given = recipe(train={"max_steps": 2}) | {"output_dir": "runs/x"}
    given["data"] |= {"train": "rows.jsonl"}
    luthier.train(recipe_file(tmp_path, given))  # the recipe's own folder is another one
    assert (tmp_path / "here" / "runs" / "x" / "model").is_dir()


@pytest.mark.parametrize(
    "method", ["full", {"name": "lora", "r": 2, "target_modules": ["q_proj"]}], ids=["full", "lora"]
)
def test_dry_run(recipe, tmp_path, capsys, method):
    train = {"max_steps": -1, "num_train_epochs": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}
    given = recipe(method=method, train=train, optim={"warmup_ratio": 0.1})
    said = Command(capsys)("train", recipe_file(tmp_path, given), "--dry-run", "--json")
    assert said.code == 0
    found = json.loads(said.out)
    assert (found["steps"], found["epochs"], found["rows"]) == (14, 2.0, 40)
    assert found["warmup_steps"] == 2
    assert 0 < found["scored_tokens"] < found["tokens"]
    assert found["trainable_parameters"] == (found["total_parameters"] if method == "full" else 2 * 2 * (64 + 64))
    assert not (tmp_path / "run").exists(), "a dry run writes nothing"
    plain = Command(capsys)("train", recipe_file(tmp_path, given), "--dry-run").out
    assert "steps                 14\n" in plain


@pytest.mark.parametrize("method", ["full", "lora"])
def test_only_our_own_lines_on_stderr(recipe, tmp_path, capsys, method):
    """No bars of transformers' for weights that are read or written."""
    command = Command(capsys)
    file = recipe_file(tmp_path, recipe(method=method, train={"max_steps": 2}))
    said = [command("train", file, "--quiet"), command("generate", tmp_path / "run", "--prompt", "Hi")]
    said += [command("merge", tmp_path / "run")] if method == "lora" else []
    assert [one.code for one in said] == [0] * len(said), said
    assert [line for one in said for line in one.err.splitlines() if "%|" in line] == []


def test_a_shipped_set_of_rows(recipe, tmp_path, capsys):
    words = ["data.train={path: embedded:train, max_rows: 50}", "train.max_steps=2", "--dry-run", "--json"]
    said = Command(capsys)("train", recipe_file(tmp_path, recipe(data={"max_length": 512})), *words)
    assert said.code == 0, said.err
    assert "embedded:train: 50 of 50 rows" in said.err
    assert json.loads(said.out)["rows"] == 50
