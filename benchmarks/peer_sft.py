# SPDX-License-Identifier: Apache-2.0
"""The peers' side: the same rows through TRL's SFTTrainer or transformers' Trainer with PEFT. One JSON line on stdout.

Rates leave out the first `--warmup` steps and count real (non-padding) tokens for each second of processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from typing import Any


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--trainer", choices=["trl", "hf"], default="trl")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--checkpointing", choices=["default", "on", "off"], default="default")
    parser.add_argument("--group-by-length", action="store_true")
    parser.add_argument("--no-shuffle", action="store_true")
    parser.add_argument("--lora-r", type=int, default=16)
    parser.add_argument("--lora-alpha", type=float, default=32)
    parser.add_argument("--rslora", action="store_true")
    parser.add_argument("--quantization", choices=["none", "nf4"], default="none")
    parser.add_argument("--output-dir", required=True)
    return parser.parse_args()


def main() -> None:
    """Train and print the figures."""
    args = parse()
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import AutoTokenizer, set_seed

    torch.set_num_threads(1)
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = load(args)
    with open(args.data, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    given = {"r": args.lora_r, "lora_alpha": args.lora_alpha, "use_rslora": args.rslora}
    lora = LoraConfig(**given, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    settings = trainer_settings(args)
    if args.trainer == "trl":
        from trl import SFTConfig, SFTTrainer

        kwargs = {"processing_class": tokenizer, "peft_config": lora, "train_dataset": Dataset.from_list(rows)}
        base, config = SFTTrainer, SFTConfig(**settings, max_length=args.max_length)
    else:
        from transformers import Trainer, TrainingArguments

        model = get_peft_model(model, lora)
        model.enable_input_require_grads()
        encoded = Dataset.from_list([encode(tokenizer, row, args.max_length) for row in rows])
        kwargs = {"train_dataset": encoded, "data_collator": collator(tokenizer.pad_token_id)}
        base, config = Trainer, TrainingArguments(**settings)
    stdout, sys.stdout = sys.stdout, sys.stderr
    trainer, marks, losses = timed(base, model, config, kwargs)
    trainer.train()
    sys.stdout = stdout
    print(json.dumps(figures(marks, losses, args.warmup)))


def load(args: argparse.Namespace) -> Any:
    """The base: float32 under autocast, or NF4 with double quantisation as PEFT's guide prepares it."""
    import torch
    from transformers import AutoModelForCausalLM

    if args.quantization == "none":
        return AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    from peft import prepare_model_for_kbit_training
    from transformers import BitsAndBytesConfig

    how = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(
        args.model, dtype=torch.bfloat16, device_map={"": "cpu"}, quantization_config=how
    )
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=args.checkpointing != "off")


def trainer_settings(args: argparse.Namespace) -> dict[str, Any]:
    """What transformers' Trainer and TRL's share."""
    settings: dict[str, Any] = {
        "output_dir": args.output_dir,
        "max_steps": args.steps,
        "per_device_train_batch_size": args.batch_size,
        "learning_rate": args.lr,
        "lr_scheduler_type": "linear",
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "seed": 0,
        "logging_steps": 10,
        "disable_tqdm": True,
    }
    if args.trainer == "hf":
        settings["bf16"] = True  # autocast; TRL turns it on by itself
    if args.checkpointing != "default":
        settings["gradient_checkpointing"] = args.checkpointing == "on"
    if args.group_by_length:
        settings["train_sampling_strategy"] = "group_by_length"
    elif args.no_shuffle:
        settings["train_sampling_strategy"] = "sequential"
    return settings


def encode(tokenizer: Any, row: dict[str, str], max_length: int) -> dict[str, list[int]]:
    """Prompt unlabelled, completion and end token labelled."""
    prompt = tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]
    answer = [*tokenizer(row["completion"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    return {"input_ids": (prompt + answer)[:max_length], "labels": ([-100] * len(prompt) + answer)[:max_length]}


def collator(pad: int) -> Any:
    """Pad a batch to its longest row."""
    import torch

    def collate(features: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        width = max(len(f["input_ids"]) for f in features)

        def padded(key: str, fill: int) -> torch.Tensor:
            return torch.tensor([f[key] + [fill] * (width - len(f[key])) for f in features])

        mask = torch.tensor([[1] * len(f["input_ids"]) + [0] * (width - len(f["input_ids"])) for f in features])
        return {"input_ids": padded("input_ids", pad), "labels": padded("labels", -100), "attention_mask": mask}

    return collate


def timed(base: Any, model: Any, config: Any, kwargs: dict[str, Any]) -> tuple[Any, list[Any], list[float]]:
    """The trainer, counting real tokens and reading the clocks after each step."""
    from transformers import TrainerCallback

    marks: list[Any] = []
    losses: list[float] = []
    seen = [0]

    class Timed(base):  # type: ignore[misc]
        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            mask = inputs.get("attention_mask")
            seen[0] += int(mask.sum()) if mask is not None else inputs["input_ids"].numel()
            loss = super().training_step(model, inputs, *args, **kwargs)
            losses.append(float(loss))
            return loss

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append((time.process_time(), time.perf_counter(), seen[0]))

    return Timed(model=model, args=config, callbacks=[Clock()], **kwargs), marks, losses


def figures(marks: list[Any], losses: list[float], warmup: int) -> dict[str, Any]:
    """The one line that both sides print."""
    (cpu0, wall0, tokens0), (cpu1, wall1, tokens1) = marks[warmup - 1], marks[-1]
    return {
        "tokens_per_cpu_second": (tokens1 - tokens0) / (cpu1 - cpu0),
        "tokens_per_second": (tokens1 - tokens0) / (wall1 - wall0),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "tokens": tokens1,
        "losses": losses,
    }


if __name__ == "__main__":
    main()
