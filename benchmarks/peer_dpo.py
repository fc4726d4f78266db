# SPDX-License-Identifier: Apache-2.0
"""The peer's side of `dpo.py`: the same pairs through TRL's DPOTrainer with PEFT. One JSON line on stdout.

Rates leave out the first `--warmup` steps. With `--precompute-ref` the reference's pass over all pairs is added to
them by its share: the seconds of a pass over one epoch, for the pairs that were trained.
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
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=4, help="Pairs of a step.")
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--lr", type=float, default=5e-5)
    parser.add_argument("--checkpointing", choices=["default", "on", "off"], default="default")
    parser.add_argument("--group-by-length", action="store_true")
    parser.add_argument("--precompute-ref", action="store_true")
    parser.add_argument("--output-dir", required=True)
    return parser.parse_args()


def main() -> None:
    """Train and print the figures."""
    args = parse()
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback, set_seed
    from trl import DPOConfig, DPOTrainer

    torch.set_num_threads(1)
    set_seed(0)
    with open(args.data, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    marks: list[float] = []
    spent = [0.0]

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append(time.process_time())

    class Timed(DPOTrainer):
        def _precompute_ref_logps(self, *given: Any, **named: Any) -> Any:  # inside the constructor
            began = time.process_time()
            found = super()._precompute_ref_logps(*given, **named)
            spent[0] += time.process_time() - began
            return found

    settings = {} if args.checkpointing == "default" else {"gradient_checkpointing": args.checkpointing == "on"}
    if args.group_by_length:
        settings["train_sampling_strategy"] = "group_by_length"
    config = DPOConfig(
        output_dir=args.output_dir, max_steps=args.steps, per_device_train_batch_size=args.batch_size,
        learning_rate=args.lr, use_cpu=True, report_to=[], save_strategy="no", seed=0, logging_steps=1, beta=0.1,
        max_length=args.max_length, disable_tqdm=True, precompute_ref_log_probs=args.precompute_ref, **settings,
    )  # fmt: skip
    lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    stdout, sys.stdout = sys.stdout, sys.stderr
    trainer = Timed(
        model=AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32), args=config, peft_config=lora,
        processing_class=AutoTokenizer.from_pretrained(args.model), train_dataset=Dataset.from_list(rows),
        callbacks=[Clock()],
    )  # fmt: skip
    if args.group_by_length:  # its sampler looks for a column of lengths, which TRL does not make
        ids = trainer.train_dataset
        lengths = [len(r["prompt_ids"]) + max(len(r["chosen_ids"]), len(r["rejected_ids"])) for r in ids]
        trainer.train_dataset = ids.add_column("length", lengths)
        trainer.args.remove_unused_columns = False  # or it is gone before the sampler sees it
    trainer.train()
    sys.stdout = stdout
    pairs = (args.steps - args.warmup) * args.batch_size
    reference = spent[0] * pairs / len(rows)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    told = {
        "pairs_per_cpu_second": pairs / (marks[-1] - marks[args.warmup - 1] + reference),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "first_loss": losses[0],
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
