# SPDX-License-Identifier: Apache-2.0
"""The demo: studies that come with the package, run by the same code as any other, with conclusions from their numbers.

luthier demo          demo.yaml: base, LoRA, rsLoRA and full fine-tuning of the built-in model; two minutes
luthier demo --full   demo-full-rank.yaml, demo-full-rate.yaml, demo-full-data.yaml, and one report over them
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.study.conclude import data_curve, methods, rank_curve, rate_sweep
from luthier.study.report import costs, list_of, table, write_report, write_whole
from luthier.study.runner import compare
from luthier.study.said import as_data, said
from luthier.study.schema import BASE
from luthier.study.table import captions, machine_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from luthier.study.results import StudyResult

PARTS = ("rank", "rate", "data")
SAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One question, answered by the model before training and by the best variant.

    Attributes:
        prompt: What was asked.
        answer: What counts as right.
        before: The base model's reply.
        after: The best variant's.
        right: Whether that one is right.
    """

    prompt: str
    answer: str
    before: str
    after: str
    right: bool


@dataclass(frozen=True, kw_only=True)
class Part:
    """One study of the demo with what can be said about it.

    Attributes:
        name: `demo`, or a name of :data:`PARTS`.
        result: The study.
        conclusion: Sentences worked out from its numbers; the first one is the conclusion.
    """

    name: str
    result: StudyResult
    conclusion: tuple[str, ...]


def shipped(name: str) -> Path:
    """The study file of the demo (`demo`) or of a part of the full one (`rank`, `rate`, `data`)."""
    return Path(__file__).parent / ("demo.yaml" if name == "demo" else f"demo-full-{name}.yaml")


def run_demo(
    overrides: Sequence[str] = (),
    *,
    folder: Path | None = None,
    seed: int | None = None,
    items: int | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda _: None,
    callbacks: Sequence[str] = (),
) -> Part:
    """Run the short demo; what is there already is used again.

    Args:
        overrides: `key=value` words for the study.
        folder: Where to write; default `runs/demo`.
        seed: Another seed than the study's.
        items: Only the first so many test items.
        overwrite: Run everything again.
        say: Receives one line at a time.
        callbacks: Watch each run.
    """
    words = [*_words(folder, [seed] if seed is not None else None, items), *overrides]
    result = compare(shipped("demo"), words, overwrite=overwrite, say=say, callbacks=callbacks)
    part = Part(name="demo", result=result, conclusion=tuple(methods(result)))
    write_report(result, part.conclusion)
    return part


def run_full(
    overrides: Sequence[str] = (),
    *,
    folder: Path | None = None,
    seed: int | None = None,
    items: int | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda _: None,
    callbacks: Sequence[str] = (),
) -> list[Part]:
    """Run the three studies of the full demo and write one report over them. Arguments as in :func:`run_demo`.

    With a seed, the parts that use three take it and the two after it.
    """
    folder = folder or Path("runs/demo-full")
    parts = []
    for name in PARTS:
        say(f"== {name}")
        first = seed or 0
        seeds = None if seed is None else [first] if name == "rate" else [first, first + 1, first + 2]
        words = [*_words(folder / name, seeds, items), *overrides]
        result = compare(shipped(name), words, overwrite=overwrite, say=say, callbacks=callbacks)
        parts.append(Part(name=name, result=result, conclusion=tuple(line for line in _said(name, result) if line)))
        write_report(result, parts[-1].conclusion)
    _write_all(folder, parts)
    return parts


def samples(result: StudyResult) -> tuple[str, list[Sample]]:
    """The best variant, and the first items of different categories as answered before and after.

    Chosen by their place in the file, whatever the replies are: picked replies would flatter.
    """
    rows = [row for row in result.rows() if row.runs and row.variant != BASE]
    if not rows or BASE not in result.variants:
        return "", []
    best = max(rows, key=lambda row: row.score.value).variant
    before, after = (_first_predictions(result, variant) for variant in (BASE, best))
    chosen: list[Sample] = []
    seen: set[str] = set()
    for old, new in zip(before, after, strict=True):
        if new["category"] in seen or len(chosen) == SAMPLES:
            continue
        seen.add(new["category"])
        answer = new["answer"] if isinstance(new["answer"], str) else " … ".join(new["answer"])
        chosen.append(
            Sample(prompt=new["prompt"], answer=answer, before=old["reply"], after=new["reply"], right=new["right"])
        )
    return best, chosen


def _first_predictions(result: StudyResult, variant: str) -> list[dict[str, Any]]:
    run = next(run for run in result.runs if run.variant == variant and not run.error)
    text = (run.folder / f"predictions-{result.suite}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def _words(folder: Path | None, seeds: list[int] | None, items: int | None) -> list[str]:
    given = {"output_dir": None if folder is None else str(folder), "seeds": seeds, "items": items}
    return [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]


def _said(name: str, result: StudyResult) -> list[str]:
    if name == "rank":
        return [rank_curve(result), *methods(result, tuned_where=said("limits_rates"))]
    if name == "rate":
        return [rate_sweep(result, chosen_on=list(result.suites)[-1])]
    return [data_curve(result)]


def _write_all(folder: Path, parts: list[Part]) -> None:
    """One report over all parts; the pictures stand in their folders."""
    text = ["# LoRA, rsLoRA and full fine-tuning of the built-in model"]
    for part in parts:
        title = part.result.design.study.title
        picture = f"![{title}]({part.name}/picture.svg)"
        tables = [table(part.result), costs(part.result)]
        text += [f"## {title}", *part.conclusion, picture, *tables, list_of(captions(part.result))]
        text.append(f"{machine_line(part.result)}. More: [{part.name}/report.md]({part.name}/report.md).")
    write_whole(folder / "report.md", "\n\n".join(text) + "\n")
    write_whole(folder / "results.json", json.dumps([to_json(part) for part in parts], indent=2, ensure_ascii=False))


def to_json(part: Part) -> dict[str, Any]:
    """A part as plain data: the study's result with its conclusion."""
    return {"name": part.name, "conclusion": [as_data(line) for line in part.conclusion], **part.result.to_json()}
