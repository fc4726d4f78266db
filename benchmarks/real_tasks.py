# SPDX-License-Identifier: Apache-2.0
"""Real tasks with a real small encoder: LoRA, and beside it a linear probe, the head alone or the model untrained.

    python benchmarks/real_tasks.py --model FOLDER --data FOLDER [--only sst2] [--out FILE]

`--model` is a sentence encoder of BERT's class (22.7 M parameters, 6 layers of 384, for the numbers in results/);
`--data` holds seqcls/, ner/, qa/ and sts/ with SST-2, banking77, WNUT-17, XQuAD (English) and STS-b. `--out` keeps the
lines of tasks that are not run. Of banking77 every fifth row is held out, of XQuAD every fifth paragraph. Each line of
the table is one run with seed 42; its interval is over the held-out rows. The linear probe of a text classifier is
logistic regression on mean-pooled embeddings of the frozen encoder, by L-BFGS to the end, with transformers' own
forward. STS-b's rate, epochs and loss were chosen on 500 of its training rows, trained on the other 2,000.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AutoModel, AutoTokenizer

import luthier
from luthier.evaluate import Evaluation, evaluate, load_suite
from luthier.evaluate.samples import read_samples
from luthier.evaluate.trained import open_reader
from luthier.recipe.schema import Source

HEADS = {"SEQ_CLS": "classifier", "TOKEN_CLS": "classifier", "QUESTION_ANS": "qa_outputs"}
LORA = {"name": "lora", "r": 16, "lora_alpha": 32, "lora_dropout": 0.1, "target_modules": "all-linear"}
POOLED = LORA | {"modules_to_save": ["pooler"]}  # a sentence encoder's own was never trained
SCORED = {"sentence1": 0, "sentence2": 1, "score": 2}


def rows_of(args: argparse.Namespace, scratch: Path) -> dict[str, dict[str, Any]]:
    """Where each task's rows are, and what its recipe says."""
    data = args.data
    banking, squad = (
        split_csv(data / "seqcls/banking77_train.csv", scratch),
        split_squad(data / "qa/xquad.en.json", scratch),
    )
    sts = {"columns": SCORED, "format": "pairs"}
    return {
        "sst2": {
            "train": {"path": str(data / "seqcls/sst2_train.csv")},
            "held": {"path": str(data / "seqcls/sst2_dev.csv")},
            "task": "SEQ_CLS",
            "epochs": 3,
            "rate": 1e-3,
        },
        "banking77": {"train": banking[0], "held": banking[1], "task": "SEQ_CLS", "epochs": 4, "rate": 1e-3},
        "wnut17": {
            "train": {"path": str(data / "ner/wnut17_train.conll")},
            "held": {"path": str(data / "ner/wnut17_dev.conll")},
            "task": "TOKEN_CLS",
            "epochs": 4,
            "rate": 1e-3,
        },
        "xquad": {"train": squad[0], "held": squad[1], "task": "QUESTION_ANS", "epochs": 3, "rate": 1e-3},
        "stsb": {
            "train": {"path": str(data / "sts/stsb_en_train_2500.csv"), **sts},
            "held": {"path": str(data / "sts/stsb_en_dev.csv"), **sts},
            "task": "FEATURE_EXTRACTION",
            "objective": {"name": "cosine", "score_range": [0, 5], "loss_type": "cosent"},
            "epochs": 2,
            "rate": 5e-5,
        },
    }


def split_csv(path: Path, scratch: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Every fifth row held out."""
    with path.open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    parts = [[row for n, row in enumerate(rows) if (n % 5 == 4) == held] for held in (False, True)]
    found = []
    for name, part in zip(("train", "held"), parts, strict=True):
        with (scratch / f"banking_{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([head, *part])
        found.append({"path": str(scratch / f"banking_{name}.csv")})
    return found[0], found[1]


def split_squad(path: Path, scratch: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Every fifth paragraph held out."""
    paragraphs = [p for article in json.loads(path.read_text(encoding="utf-8"))["data"] for p in article["paragraphs"]]
    found = []
    for name, held in (("train", False), ("held", True)):
        part = [p for n, p in enumerate(paragraphs) if (n % 5 == 4) == held]
        file = scratch / f"xquad_{name}.json"
        file.write_text(json.dumps({"data": [{"title": name, "paragraphs": part}]}), encoding="utf-8")
        found.append({"path": str(file)})
    return found[0], found[1]


def trained(model: str, told: dict[str, Any], method: dict[str, Any], folder: Path) -> tuple[Evaluation, float]:
    """One run and its evaluation, and the processor's seconds of its steps."""
    recipe = {
        "model": {"model_name_or_path": model, "task_type": told["task"]},
        "data": {"train": [told["train"]], "max_length": 256},
        "method": method,
        "optim": {"learning_rate": told["rate"], "warmup_ratio": 0.1},
        "train": {"num_train_epochs": told["epochs"], "per_device_train_batch_size": 32, "logging_steps": 20},
        "output_dir": str(folder),
    }
    if told["task"] != "FEATURE_EXTRACTION":
        # 32 texts, or what fits into as many tokens: bins of one text would make steps of four times the tokens.
        recipe["train"]["per_device_train_batch_size"] = 4
    if "objective" in told:
        recipe["objective"] = told["objective"]
    result = luthier.train(recipe, overwrite=True, say=lambda line: print(f"    {line}", flush=True))
    return judged(folder, told), result.summary["cpu_seconds"]


def linear_probe(model: str, told: dict[str, Any]) -> tuple[float, float, int, float]:
    """Accuracy of logistic regression on frozen embeddings, its standard error, the rows, the processor's seconds."""
    began = time.process_time()
    tokenizer, encoder = AutoTokenizer.from_pretrained(model), AutoModel.from_pretrained(model).eval()
    kinds: dict[str, int] = {}
    found = []
    for part in ("train", "held"):
        rows: list[Any] = [one.example for one in read_samples(Source(**told[part]), "labelled").every]
        vectors = []
        for start in range(0, len(rows), 64):
            words = tokenizer([row.text for row in rows[start : start + 64]], padding=True, return_tensors="pt")
            with torch.no_grad():
                hidden = encoder(**words).last_hidden_state
            mask = words["attention_mask"][..., None]
            vectors.append(F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1))
        labels = torch.tensor([kinds.setdefault(str(row.labels[0]), len(kinds)) for row in rows])
        found.append((torch.cat(vectors), labels))
    (x, y), (held_x, held_y) = found
    head = torch.nn.Linear(x.shape[1], len(kinds))
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(head(x), y) + 1e-5 * head.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    share = float((head(held_x).argmax(1) == held_y).double().mean())
    return share, (share * (1 - share) / len(held_y)) ** 0.5, len(held_y), time.process_time() - began


def judged(folder: Path | str, told: dict[str, Any]) -> Evaluation:
    """A run or a model on the held-out rows."""
    model, tokenizer = luthier.load(folder)
    kind = open_reader(model, tokenizer, Path(folder)).kind
    return evaluate(model, tokenizer, load_suite({"task": told["held"]}, rows=kind), folder=Path(folder))


def line(task: str, what: str, found: Evaluation, seconds: float) -> str:
    """One line of the table."""
    one = found.estimate
    metrics = "  ".join(f"{name} {value:.3f}" for name, value in found.judged.metrics.items())
    cost = f"{seconds:7.0f} s" if seconds else "        -"
    return f"{task:<10} {what:<10} {one.value:.3f} [{one.low:.3f}, {one.high:.3f}]  {cost}  {metrics}"


def main() -> None:
    """Run what is asked for and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        for task, told in rows_of(args, scratch).items():
            if args.only and task not in args.only:
                continue
            begun = time.perf_counter()
            if told["task"] == "FEATURE_EXTRACTION":
                lines.append(line(task, "untrained", judged(args.model, told), 0.0))
            elif told["task"] == "SEQ_CLS":
                share, error, _, spent = linear_probe(args.model, told)
                interval = f"[{share - 1.96 * error:.3f}, {share + 1.96 * error:.3f}]"
                lines.append(f"{task:<10} {'probe':<10} {share:.3f} {interval}  {spent:7.0f} s  accuracy {share:.3f}")
            else:
                probe = told | {"rate": 5e-3}
                alone = {"name": "freeze", "unfrozen_parameters": [HEADS[told["task"]]]}
                lines.append(line(task, "head alone", *trained(args.model, probe, alone, scratch / f"{task}-probe")))
            print(lines[-1], flush=True)
            method = POOLED if told["task"] == "SEQ_CLS" else LORA
            lines.append(line(task, "lora r=16", *trained(args.model, told, method, scratch / task)))
            print(lines[-1], f"({time.perf_counter() - begun:.0f} s in all)", flush=True)
    if args.out:
        head = "task       method     first metric [95 % interval]  CPU     all metrics"
        done = {line.split()[0] for line in lines}
        before = args.out.read_text(encoding="utf-8").splitlines()[1:] if args.out.exists() else []
        kept = [line for line in before if line.split()[0] not in done]
        args.out.write_text("\n".join([head, *kept, *lines]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
