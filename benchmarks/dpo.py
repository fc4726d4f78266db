# SPDX-License-Identifier: Apache-2.0
"""DPO with LoRA: Luthier against TRL, prompts shared against prompts repeated, peak memory against SFT; prints ratios.

    python benchmarks/dpo.py                               five rounds on made pairs
    python benchmarks/dpo.py --rounds 3 --rows hh.jsonl    pairs of transcripts, {"chosen": ..., "rejected": ...}

Every round runs each side once, in turn, one thread each, in a process of its own; ratios are taken inside a round.
Rates are pairs for each second of processor time, the reference included. Pairs have long prompts: 0.4 to 0.8 of a
branch's tokens, and both branches fit into 512.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from run import machine, one_side
from workload import TEMPLATE, make_model, read_rows, write_rows

HERE = Path(__file__).parent
BEST = ["--checkpointing", "off", "--group-by-length"]
SIDES = {
    "luthier": ["ours_dpo.py"],
    "trl (defaults)": ["peer_dpo.py"],
    "trl (no checkpointing, grouped by length)": ["peer_dpo.py", *BEST],
    "trl (the same, reference precomputed)": ["peer_dpo.py", *BEST, "--precompute-ref"],
}
# All 300 pairs once, but for the first step: TRL's sampler begins with long ones, so a part would be another task.
DRAWN = ["--steps", "75", "--warmup", "1"]
ONCE = "trl (the same, reference precomputed)"  # its pass over all pairs takes minutes: in the first round only
OURS = "luthier"
BARS = {"defaults": 5.0, "best": 3.5, "prompt as long as an answer": 1.2, "prompt four times as long": 1.5}
MEMORY = 1.15
ANSWER = 96  # tokens of an answer in the part about shared prompts
TURN = "\n\nAssistant:"


def main() -> int:
    """Run the rounds, print the table, write the JSON; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slow-rounds", type=int, help="TRL, most of a round's time, in so many rounds only.")
    parser.add_argument("--steps", type=int, default=12, help="Of the parts without TRL.")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--rows", type=Path, help="JSON Lines of transcripts; default: pairs made from shipped rows.")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "dpo_cpu.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        pairs = transcripts(args.rows) if args.rows else made_pairs()
        texts = [{"prompt": row["prompt"], "completion": row["chosen"] + row["rejected"]} for row in pairs]
        make_model(folder / "model", texts)
        pairs = with_long_prompts(pairs, folder / "model")
        write_rows(folder / "rows.jsonl", pairs)
        write_sets(folder, pairs)
        rounds = [one_round(folder, args, number) for number in range(args.rounds)]
    report = {"rounds": rounds, "ratios": ratios(rounds), "machine": machine(), "date": time.strftime("%Y-%m-%d")}
    report |= {"rows": args.rows.name if args.rows else "made", "pairs": len(pairs)}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report, indent=1) + "\n")
    return show(report)


def one_round(folder: Path, args: argparse.Namespace, number: int) -> dict[str, Any]:
    """Each side once; the order turns with every round."""
    slow = args.rounds if args.slow_rounds is None else args.slow_rounds
    sides = {name: words for name, words in SIDES.items() if name == OURS or number < (1 if name == ONCE else slow)}
    work: dict[str, tuple[list[str], str]] = {name: (words, "rows") for name, words in sides.items()}
    for name in ("equal", "fourfold"):
        work[f"shared, {name}"] = (["ours_dpo.py"], name)
        work[f"repeated, {name}"] = (["ours_dpo.py", "--unshared"], name)
    work["sft"] = (["ours_dpo.py", "--sft", "--batch-size", "8"], "sft")
    work["dpo on the same tokens"] = (["ours_dpo.py", "--unshared"], "fourfold")
    names = list(work)
    names = names[number % len(names) :] + names[: number % len(names)]
    found = {}
    for name in names:
        words, rows = work[name]
        drawn = DRAWN if rows == "rows" else []
        found[name] = one_side(words, folder, args, "--data", str(folder / f"{rows}.jsonl"), *drawn)
        said = f"{found[name]['pairs_per_cpu_second']:.2f} pairs/CPU s, {found[name]['peak_rss_bytes'] / 2**20:.0f} MiB"
        print(f"round {number + 1}, {name}: {said}", file=sys.stderr, flush=True)
    return found


def transcripts(path: Path) -> list[dict[str, str]]:
    """Pairs of dialogues: the prompt ends with the last turn that both share."""
    pairs = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        at = row["chosen"].rfind(TURN) + len(TURN)
        prompt = row["chosen"][:at]
        if row["rejected"].startswith(prompt) and row["chosen"] != row["rejected"]:
            cut = {"prompt": prompt, "chosen": row["chosen"][at:], "rejected": row["rejected"][at:]}
            # TRL takes text as it stands; Luthier would read these marks as turns and apply a chat template.
            pairs.append({key: text.replace("Human:", "Q:").replace("Assistant:", "A:") for key, text in cut.items()})
    return pairs


def made_pairs() -> list[dict[str, str]]:
    """Pairs from the shipped rows: two answers of different length to a prompt that is as long as both."""
    rows, draw = read_rows(None), random.Random(1)
    pairs = []
    for row in rows:
        first, second = draw.sample(rows, 2)
        answer, other = row["completion"].split(), first["completion"].split()
        prompt = f"{second['completion']} {first['completion']}"
        question = TEMPLATE.format(instruction=prompt, input="")
        cut = [" " + " ".join(words[: max(8, round(0.6 * len(words)))]) for words in (answer, other)]
        if cut[0] != cut[1]:
            pairs.append({"prompt": question, "chosen": cut[0], "rejected": cut[1]})
    return pairs


def with_long_prompts(pairs: list[dict[str, str]], model: Path) -> list[dict[str, str]]:
    """Those whose prompt is 0.4 to 0.8 of a branch, and whose branches fit into 512 tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    kept = []
    for row in pairs:
        prompt, *answers = (len(tokenizer(row[key])["input_ids"]) for key in ("prompt", "chosen", "rejected"))
        share = 2 * prompt / (2 * prompt + sum(answers))
        if 0.4 <= share <= 0.8 and prompt + max(answers) < 510:
            kept.append(row)
    return kept[:300]  # TRL asks its reference about all of them before it trains


def write_sets(folder: Path, pairs: list[dict[str, str]]) -> None:
    """Pairs of fixed lengths for the part about shared prompts, and the same branches as plain examples."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    stream = [i for row in pairs for i in tokenizer(row["prompt"] + row["chosen"])["input_ids"]]
    places = random.Random(2)

    def text(tokens: int) -> str:
        at = places.randrange(len(stream) - tokens)
        return str(tokenizer.decode(stream[at : at + tokens]))

    for name, times in (("equal", 1), ("fourfold", 4)):
        made = [{"prompt": text(times * ANSWER), "chosen": text(ANSWER), "rejected": text(ANSWER)} for _ in range(200)]
        write_rows(folder / f"{name}.jsonl", made)
    plain = [{"prompt": row["prompt"], "completion": row[key]} for row in made for key in ("chosen", "rejected")]
    write_rows(folder / "sft.jsonl", plain)


def ratios(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Pair by pair inside a round."""
    found: dict[str, list[float]] = {}
    for one in rounds:
        rate = {name: run["pairs_per_cpu_second"] for name, run in one.items()}
        peaks = {name: run["peak_rss_bytes"] for name, run in one.items()}
        if peers := [name for name in SIDES if name != OURS and name in one]:
            for name in peers:
                found.setdefault(f"luthier / {name}", []).append(rate[OURS] / rate[name])
            best = max(rate[name] for name in peers)
            found.setdefault("luthier / trl at its best", []).append(rate[OURS] / best)
            leanest = min(peaks[name] for name in peers)
            found.setdefault("peak memory, luthier / trl's leanest", []).append(peaks[OURS] / leanest)
        for name, said in (("equal", "prompt as long as an answer"), ("fourfold", "prompt four times as long")):
            found.setdefault(f"shared / repeated, {said}", []).append(
                rate[f"shared, {name}"] / rate[f"repeated, {name}"]
            )
        both = peaks["dpo on the same tokens"] / peaks["sft"]
        found.setdefault("peak memory, dpo / sft on the same tokens", []).append(both)
    return {name: {"median": median(of), "min": min(of), "max": max(of)} for name, of in found.items()}


def show(report: dict[str, Any]) -> int:
    """Print the ratios; 1 where a bar is missed."""
    missed = 0
    for name, found in report["ratios"].items():
        bar = next((value for key, value in BARS.items() if key in name and "memory" not in name), None)
        good = bar is None or found["median"] >= bar
        if "dpo / sft" in name:
            bar, good = MEMORY, found["median"] <= MEMORY
        missed += not good
        verdict = "" if bar is None else f", bar {bar}x {'met' if good else 'MISSED'}"
        print(f"{name}: {found['median']:.2f}x ({found['min']:.2f} to {found['max']:.2f}){verdict}")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
