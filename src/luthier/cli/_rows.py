# SPDX-License-Identifier: Apache-2.0
"""How rows look in a terminal and as JSON: text with what is scored, labels, tags under words, answers, pairs."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from luthier.core.tasks import Labels
    from luthier.core.types import Segment, Tree

OPEN, CLOSE = "⟦", "⟧"  # rare in data, so that they are not mistaken for it


def told(tree: Tree, kind: str, labels: Labels | None, tokenizer: Any) -> dict[str, Any]:
    """Tell one tree as plain data: what is scored or true of it, as text, and its ids.

    Args:
        tree: The tree.
        kind: The file of ``data/kinds`` that made it.
        labels: Names of its labels, where it has such.
        tokenizer: Turns ids into text.
    """
    first, *answers = tree.segments
    before = first.ids.tolist()
    about = {
        "row": tree.row,
        "tokens": len(tree),
        "scored_tokens": sum(int(part.scored.sum()) for part in tree.segments),
    }
    if kind == "labelled" and labels is not None:
        return about | {"labels": _labels(tree.targets, labels)} | _runs(first, [], tokenizer)
    if kind == "tagged" and labels is not None:
        return about | {"words": _words(first, labels, tokenizer), "ids": before}
    if kind == "question":
        start, end = map(int, tree.targets)
        spanned = first.scored.copy()
        spanned[start : end + 1] = (start, end) != (0, 0)
        return about | {"answer": bool(spanned.any())} | _runs(replace(first, scored=spanned), [], tokenizer)
    if not answers:
        return about | _runs(first, [], tokenizer)
    if kind == "source_target":
        return about | {"source": _runs(first, [], tokenizer), "target": _runs(answers[0], [], tokenizer)}
    alone = [] if kind == "texts" else before
    each = [
        {"grade": _number(grade), "score": _number(score)} | _runs(answer, alone, tokenizer)
        for answer, grade, score in zip(answers, tree.grades[1:], tree.scores[1:] or [None] * len(answers), strict=True)
    ]
    return about | ({"texts": each} if kind == "texts" else {"prompt": _runs(first, [], tokenizer), "answers": each})


def show(row: dict[str, Any], console: Console) -> None:
    """Print what :func:`told` told."""
    from rich.text import Text

    many = [len(row[name]) for name in ("answers", "texts") if name in row]
    what = "text" if "texts" in row else "answer"
    said = f", {many[0]} {what}{'s' if many[0] > 1 else ''}" if many else ""
    scored = f", {row['scored_tokens']:,} scored" if row["scored_tokens"] else ""
    console.rule(f"{row['row']}: {row['tokens']:,} tokens{scored}{said}", align="left")
    if "words" in row:
        _show_words(row["words"], console)
    for name in ("prompt", "source"):
        if name in row:
            head = Text("source: ", "bold") if name == "source" else Text()
            console.print(head.append_text(_marked(row[name])))
    if "target" in row:
        console.print(Text("target: ", "bold").append_text(_marked(row["target"])))
    if "runs" in row:
        console.print(_marked(row))
    if "labels" in row:
        console.print(Text(f"labels: {', '.join(map(str, row['labels'])) or 'none'}", "bold"))
    if row.get("answer") is False:
        console.print(Text("no answer in this window", "bold"))
    for number, answer in enumerate(row.get("answers") or row.get("texts") or (), 1):
        grade = "" if answer["grade"] is None else f", grade {answer['grade']:g}"
        score = "" if answer["score"] is None else f", score {answer['score']:g}"
        head = Text(f"{what} {number}{grade}{score}, {len(answer['ids']):,} tokens: ", "bold")
        console.print(head.append_text(_marked(answer)))


def _show_words(words: list[dict[str, Any]], console: Console) -> None:
    """Print words with their tags below them, as many in a line as fit."""
    from rich.cells import cell_len

    columns = [(word["text"].strip().replace("\n", " "), word["tag"] or "") for word in words]
    lines: list[str] = ["", ""]
    for column in columns:
        width = max(map(cell_len, column)) + 1
        if lines[0] and cell_len(lines[0]) + width > console.width:
            _print_pair(lines, console)
            lines = ["", ""]
        lines = [line + text + " " * (width - cell_len(text)) for line, text in zip(lines, column, strict=True)]
    _print_pair(lines, console)


def _print_pair(lines: list[str], console: Console) -> None:
    for line, style in zip(lines, ("", "green"), strict=True):
        console.print(line.rstrip(), style=style, markup=False, no_wrap=True)


def _labels(targets: tuple[float, ...], labels: Labels) -> list[Any]:
    if labels.problem == "regression":
        return list(targets)
    if labels.problem == "multi_label_classification":
        return [name for name, there in zip(labels.names, targets, strict=True) if there]
    return [labels.names[int(targets[0])]]


def _words(segment: Segment, labels: Labels, tokenizer: Any) -> list[dict[str, Any]]:
    """Group tokens to words: each begins at a token with a label; before the first one stands what has none."""
    assert segment.labels is not None
    begins = [place for place, label in enumerate(segment.labels.tolist()) if label >= 0]
    edges = [*([0] if begins[:1] != [0] else []), *begins, len(segment)]
    ids, named = segment.ids.tolist(), segment.labels.tolist()
    return [
        {
            "text": tokenizer.decode(ids[start:stop], clean_up_tokenization_spaces=False),
            "tag": labels.names[named[start]] if named[start] >= 0 else None,
        }
        for start, stop in pairwise(edges)
    ]


def _number(value: float | None) -> float | None:
    return None if value is None or value != value else value  # JSON has no NaN


def _runs(segment: Segment, before: list[int], tokenizer: Any) -> dict[str, Any]:
    """Tell the runs of one segment that comes after the tokens `before`."""
    ids, scored = segment.ids.tolist(), segment.scored.tolist()
    edges = [0, *(i for i in range(1, len(ids)) if scored[i] != scored[i - 1]), len(ids)]
    # the text of a run is what it adds to the text before it: decoded alone, SentencePiece drops its leading space
    texts = [tokenizer.decode([*before, *ids[:edge]], clean_up_tokenization_spaces=False) for edge in edges]
    runs = [
        {"text": texts[i + 1][len(texts[i]) :], "scored": scored[edges[i]], "tokens": edges[i + 1] - edges[i]}
        for i in range(len(edges) - 1)
    ]
    return {"runs": runs, "ids": ids}


def _marked(row: dict[str, Any]) -> Text:
    from rich.text import Text

    text = Text()
    for run in row["runs"]:
        text.append(f"{OPEN}{run['text']}{CLOSE}" if run["scored"] else run["text"], "green" if run["scored"] else "")
    return text
