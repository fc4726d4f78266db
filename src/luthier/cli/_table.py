# SPDX-License-Identifier: Apache-2.0
"""How studies look in a terminal: the table, the sentences below it, replies before and after."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from luthier.study.demo import Sample
    from luthier.study.results import StudyResult


def console() -> Console:
    """Stdout, wide enough for a table when it is no terminal."""
    from rich.console import Console

    out = Console(highlight=False, soft_wrap=False)
    return out if out.is_terminal else Console(highlight=False, width=160)


def show_study(out: Console, result: StudyResult, sentences: Sequence[str]) -> None:
    """Print both tables, conclusions, claims, captions and the machine."""
    from luthier.study.claims import judged
    from luthier.study.schema import BASE
    from luthier.study.table import captions, cells, cost_cells, cost_headers, headers, machine_line

    _print_table(out, result.design.study.title, headers(result), [cells(result, row) for row in result.rows()])
    spent = [cost_cells(result, row) for row in result.rows() if row.runs and row.variant != BASE]
    if spent:
        _print_table(out, "", cost_headers(result), spent)
    for number, sentence in enumerate(sentences):
        out.print(sentence, style="bold" if number == 0 else "", markup=False)
    for claim in judged(result):
        out.print(f"Claim: {claim.sentence}", markup=False)
    for caption in captions(result):
        out.print(f"- {caption}", style="dim", markup=False)
    for run in result.failed:
        out.print(f"failed: {run.variant}, seed {run.seed}: {run.error}", style="red", markup=False)
    out.print(machine_line(result), style="dim", markup=False)


def _print_table(out: Console, title: str, names: list[str], lines: list[list[str]]) -> None:
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", header_style="bold")
    first = lines[-1]  # names, scores and differences keep to one line
    for number, name in enumerate(names):
        table.add_column(name, justify="left" if number == 0 else "right", no_wrap="[" in first[number] or number == 0)
    for line in lines:
        table.add_row(*map(_literal, line))
    out.print(table)


def _literal(cell: str) -> str:
    """A cell as it stands: brackets are intervals here, not rich's markup."""
    from rich.markup import escape

    return escape(cell)


def show_samples(out: Console, best: str, samples: Sequence[Sample]) -> None:
    """Print the first questions with the replies before and after."""
    if not samples:
        return
    out.print(f"\nThe first questions of the test set, before training and by {best}:", style="bold", markup=False)
    for sample in samples:
        verdict = "right" if sample.right else f"wrong, expected: {sample.answer}"
        out.print(f"  {' / '.join(sample.prompt.splitlines())}", markup=False)
        out.print(f"    before  {' / '.join(sample.before.split(chr(10)))}", style="dim", markup=False)
        out.print(f"    after   {' / '.join(sample.after.split(chr(10)))}  ({verdict})", markup=False)
    out.print()
