# SPDX-License-Identifier: Apache-2.0
"""An encoder that learns to classify short texts: Luthier against transformers' Trainer with dynamic padding.

    python benchmarks/encoder.py                         a BERT of 6 x 384 with random weights, shipped texts
    python benchmarks/encoder.py --rows sst2.csv --model MINILM --dtype bfloat16 --method lora

Both sides train the same rows in batches of as many, one thread each, in processes of their own, in turn; rates are
real (non-padding) tokens for each second of processor time, after a warm-up. The peer runs as it does by default
(padded to the longest row of a batch) and with rows grouped by length. Last, both sides take the same rows in file
order without dropout from the same head, and their losses are compared.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from peer_sft import figures, timed
from run import machine

SHAPES = {"tiny": (2, 128), "small": (6, 384), "base": (12, 768)}
SIDES = {
    "luthier": ["--side", "luthier"],
    "transformers Trainer": ["--side", "peer"],
    "transformers Trainer (grouped by length)": ["--side", "peer", "--group-by-length"],
}
OURS = "luthier"
BAR = 2.0


def main() -> int:
    """Run the rounds, print the ratios, write the JSON; 1 where the bar is missed."""
    args = parse()
    if args.side:
        print(json.dumps(luthier_side(args) if args.side == OURS else peer_side(args)))
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rows = read_rows(args.rows)
        write_rows(folder / "rows.jsonl", rows)
        for name, dropout in (("model", None), ("still", 0.0)):
            make_model(folder / name, rows, args, dropout)
        rounds = [one_round(folder, args, number) for number in range(args.rounds)]
        curves = [one_side(SIDES[name], folder, args, "still", "--no-shuffle")["losses"] for name in list(SIDES)[:2]]
    difference = max(abs(a - b) / b for a, b in zip(*curves, strict=True))
    ratios = {
        name: [found[OURS]["tokens_per_cpu_second"] / found[name]["tokens_per_cpu_second"] for found in rounds]
        for name in SIDES
        if name != OURS
    }
    told = {"model": args.model.name if args.model else f"random, {args.shape}"}
    told |= {"rows": args.rows.name if args.rows else "shipped"}
    told |= {"dtype": args.dtype, "method": args.method, "batch_size": args.batch_size}
    report = {**told, "rounds": rounds, "ratios": ratios, "loss_difference": difference, "machine": machine()}
    report["date"] = time.strftime("%Y-%m-%d")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report, indent=1) + "\n")
    for name, found in ratios.items():
        print(f"luthier / {name}: {median(found):.2f}x ({min(found):.2f} to {max(found):.2f})")
    met = median(ratios["transformers Trainer"]) >= BAR and difference <= 1e-4
    print(f"losses differ by at most {difference:.1e}; bars {BAR}x and 1e-4 {'met' if met else 'MISSED'}")
    return int(not met)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, help="A CSV file with columns label and sentence (or text).")
    parser.add_argument("--model", type=Path, help="An encoder's folder; default: random weights of --shape.")
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--method", choices=["full", "lora"], default="full")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "encoder_cpu.json")
    parser.add_argument("--side", choices=[OURS, "peer"], help="Run one side in --folder and print its figures.")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--which", default="model")
    parser.add_argument("--group-by-length", action="store_true")
    parser.add_argument("--no-shuffle", action="store_true")
    return parser.parse_args()


def read_rows(path: Path | None) -> list[dict[str, Any]]:
    """Rows of text and label: of a CSV file, or the shipped set."""
    if path is None:
        from luthier.core.shipped import sets_folder

        lines = (sets_folder() / "classify_train.jsonl").read_text(encoding="utf-8").splitlines()
        return [{"text": row["text"], "label": str(row["label"])} for row in map(json.loads, lines)]
    with path.open(encoding="utf-8", newline="") as file:
        return [{"text": row.get("sentence") or row["text"], "label": row["label"]} for row in csv.DictReader(file)]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make_model(folder: Path, rows: list[dict[str, Any]], args: argparse.Namespace, dropout: float | None) -> None:
    """A classifier with its head, so that both sides begin alike; its tokenizer is the model's or made of the rows."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, BertConfig

    names = sorted({row["label"] for row in rows})
    words: dict[str, Any] = {"num_labels": len(names), "id2label": dict(enumerate(names))}
    words |= {"label2id": {name: number for number, name in enumerate(names)}, "dtype": torch.float32}
    still = {} if dropout is None else {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    torch.manual_seed(0)
    if args.model:
        config = AutoConfig.from_pretrained(args.model, **still)
        model = AutoModelForSequenceClassification.from_pretrained(
            args.model, num_labels=len(names), id2label=words["id2label"], label2id=words["label2id"], **still
        )
        tokenizer = AutoTokenizer.from_pretrained(args.model)
    else:
        tokenizer = word_pieces([row["text"] for row in rows])
        layers, hidden = SHAPES[args.shape]
        sizes = {"num_hidden_layers": layers, "hidden_size": hidden, "intermediate_size": 4 * hidden}
        config = BertConfig(vocab_size=30522, num_attention_heads=hidden // 32, **sizes, **still, **words)
        config.problem_type = "single_label_classification"
        model = AutoModelForSequenceClassification.from_config(config)
    model.config.problem_type = "single_label_classification"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def word_pieces(texts: list[str]) -> Any:
    """A WordPiece tokenizer as BERT's, learned from these texts."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    made = Tokenizer(models.WordPiece(unk_token=special["unk"]))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=8000, special_tokens=list(special.values())))
    ends = [(word, made.token_to_id(word)) for word in (special["sep"], special["cls"])]
    made.post_processor = processors.BertProcessing(*ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, **{f"{key}_token": word for key, word in special.items()}, model_max_length=512
    )


def one_round(folder: Path, args: argparse.Namespace, number: int) -> dict[str, Any]:
    """Each side once; the order turns with every round."""
    names = list(SIDES)
    names = names[number % len(names) :] + names[: number % len(names)]
    found = {name: one_side(SIDES[name], folder, args, "model") for name in names}
    line = "  ".join(f"{name} {found[name]['tokens_per_cpu_second']:.0f}" for name in SIDES)
    print(f"round {number + 1}: {line} tokens/CPU s", file=sys.stderr, flush=True)
    return {name: {k: v for k, v in one.items() if k != "losses"} for name, one in found.items()}


def one_side(words: list[str], folder: Path, args: argparse.Namespace, which: str, *more: str) -> dict[str, Any]:
    """Run one side in its own process and read the line it prints."""
    command = [sys.executable, __file__, *words, "--folder", str(folder), "--which", which, *more]
    for key in ("dtype", "method", "steps", "warmup", "batch_size"):
        command += [f"--{key.replace('_', '-')}", str(getattr(args, key))]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def luthier_side(args: argparse.Namespace) -> dict[str, Any]:
    """The rows through `luthier.train`: as many a step as the peer takes, laid side by side without padding."""
    import torch

    import luthier

    torch.set_num_threads(1)
    out = args.folder / "luthier"
    method = {"name": "lora", "r": 16, "lora_alpha": 32} if args.method == "lora" else {"name": "full"}
    recipe = {
        "model": {"model_name_or_path": str(args.folder / args.which), "dtype": args.dtype, "task_type": "SEQ_CLS"},
        "data": {
            "train": {"path": str(args.folder / "rows.jsonl")},
            "max_length": 512,
            "packing": False,
            "shuffle": not args.no_shuffle,
        },
        "method": method,
        "optim": {"learning_rate": 5e-5, "warmup_ratio": 0.0, "weight_decay": 0.0},
        "train": {"max_steps": args.steps, "per_device_train_batch_size": args.batch_size},
        "output_dir": str(out),
    }
    luthier.train(recipe, overwrite=True, say=lambda line: print(line, file=sys.stderr))
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [record for record in map(json.loads, lines) if "loss" in record]
    first, last = records[args.warmup - 1], records[-1]
    tokens = last["tokens"] - first["tokens"]
    return {
        "tokens_per_cpu_second": tokens / (last["cpu_seconds"] - first["cpu_seconds"]),
        "tokens_per_second": tokens / (last["seconds"] - first["seconds"]),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "tokens": last["tokens"],
        "losses": [record["loss"] for record in records],
    }


def peer_side(args: argparse.Namespace) -> dict[str, Any]:
    """The rows through transformers' Trainer, each batch padded to its longest row."""
    import torch
    from datasets import Dataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    torch.set_num_threads(1)
    set_seed(0)
    folder = args.folder / args.which
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    if args.method == "lora":
        from peft import LoraConfig, get_peft_model

        ends = ["query", "key", "value", "dense"]
        model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules=ends, task_type="SEQ_CLS"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with (args.folder / "rows.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    encoded = [
        {**tokenizer(row["text"], truncation=True, max_length=512), "labels": model.config.label2id[row["label"]]}
        for row in rows
    ]
    sampling = {"train_sampling_strategy": "group_by_length"} if args.group_by_length else {}
    sampling = {"train_sampling_strategy": "sequential"} if args.no_shuffle else sampling
    config = TrainingArguments(
        output_dir=str(args.folder / "peer"),
        max_steps=args.steps,
        per_device_train_batch_size=args.batch_size,
        learning_rate=5e-5,
        lr_scheduler_type="linear",
        use_cpu=True,
        bf16=args.dtype == "bfloat16",
        report_to=[],
        save_strategy="no",
        seed=0,
        logging_steps=10,
        disable_tqdm=True,
        **sampling,
    )
    stdout, sys.stdout = sys.stdout, sys.stderr
    words = {"train_dataset": Dataset.from_list(encoded), "data_collator": DataCollatorWithPadding(tokenizer)}
    trainer, marks, losses = timed(Trainer, model, config, words)
    trainer.train()
    sys.stdout = stdout
    return figures(marks, losses, args.warmup)


if __name__ == "__main__":
    sys.exit(main())
