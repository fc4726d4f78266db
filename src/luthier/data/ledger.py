# SPDX-License-Identifier: Apache-2.0
"""What became of every row: read = kept + refused, with the reason and the number of each that was refused."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from luthier.core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from luthier.data.faults import RowFault

NAMED = 8  # rows that are named for each reason


@dataclass(kw_only=True)
class Refusal:
    """The rows that were refused for one reason.

    Attributes:
        count: How many.
        rows: The first of them, as ``part:number``.
        detail: What was special about the first of them.
    """

    count: int = 0
    rows: list[str] = field(default_factory=list)
    detail: str = ""


@dataclass(kw_only=True)
class Account:
    """What became of the rows of one source.

    Attributes:
        source: The path in the recipe.
        format: How its rows were read.
        kind: The file of ``data/kinds`` that made trees of them.
        columns: The format's name of each column -> the name in the file.
        unused: Columns that nothing reads.
        rows: Rows met in the file.
        read: Examples in them, good or bad: one a row, but for formats whose rows hold several.
        kept: Examples that train.
        windows: Trees of the kept examples: more than those where long ones are cut into windows.
        answers: Judged answers of the kept examples, or texts that belong together; 0 where there are none.
        truncated: Examples among the kept ones that were cut at ``max_length``; judged ones at their prompt's start.
        tokens: Tokens of the kept rows.
        scored_tokens: Tokens among them whose log-probability is trained.
        cut_tokens: Tokens that truncation cut away.
        labelled: Words with a tag.
        lost: Tagged words of which the tokenizer leaves no token; answers that no window holds whole.
        refused: Reason -> rows.
        notes: What the token gate found worth knowing.
    """

    source: str
    format: str = ""
    kind: str = "plain"
    columns: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    rows: int = 0
    read: int = 0
    kept: int = 0
    windows: int = 0
    answers: int = 0
    truncated: int = 0
    tokens: int = 0
    scored_tokens: int = 0
    cut_tokens: int = 0
    labelled: int = 0
    lost: int = 0
    refused: dict[str, Refusal] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def refused_rows(self) -> int:
        """Rows that were refused, for whatever reason."""
        return sum(refusal.count for refusal in self.refused.values())

    def refuse(self, row: str, fault: RowFault) -> None:
        """Count one refused row."""
        refusal = self.refused.setdefault(fault.reason, Refusal())
        refusal.detail = refusal.detail if refusal.count else fault.detail
        refusal.count += 1
        if len(refusal.rows) < NAMED:
            refusal.rows.append(row)

    def told_refused(self) -> list[str]:
        """Say what was refused, one line for each reason, the most frequent first."""
        lines = []
        for reason, refusal in sorted(self.refused.items(), key=lambda item: -item[1].count):
            rows = ", ".join(row.removeprefix(f"{self.source}:") for row in refusal.rows)
            more = ", ..." if refusal.count > len(refusal.rows) else ""
            detail = f" ({refusal.detail})" if refusal.detail else ""
            rows = f"row{'s' if refusal.count > 1 else ''} {rows}{more}"
            lines.append(f"{refusal.count:,} refused: {reason}{detail}: {rows}")
        return lines

    def told_kept(self) -> str:
        """Say what was kept: rows, their windows and answers where they have such, and tokens."""
        things = "rows" if self.read == self.rows else f"examples in {self.rows:,} rows"
        windows = f", {self.windows:,} windows" if self.windows > self.kept else ""
        branches = "texts" if self.kind == "texts" else "answers"
        answers = f", {self.answers:,} {branches}" if self.answers else ""
        scored = f", {self.scored_tokens:,} scored" if self.scored_tokens else ""
        labelled = f", {self.labelled:,} labelled" if self.labelled else ""
        return f"{self.kept:,} of {self.read:,} {things}{windows}{answers}, {self.tokens:,} tokens{scored}{labelled}"

    def told(self) -> list[str]:
        """Say what was refused, what was cut, and what the token gate noted."""
        lines = self.told_refused()
        if self.truncated:
            share = self.cut_tokens / max(1, self.cut_tokens + self.tokens)
            lines.append(f"{self.truncated:,} cut at max_length; {self.cut_tokens:,} tokens ({share:.1%}) are not seen")
        if self.lost and self.kind == "question":
            lines.append(f"{self.lost:,} answers stand whole in no window, so all windows say that there is none")
        elif self.lost:
            lines.append(f"{self.lost:,} words have no token of their own; their tags are not seen")
        return lines + self.notes

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> Account:
        """Make an account from what ``asdict`` gave."""
        return cls(**tree | {"refused": {reason: Refusal(**given) for reason, given in tree["refused"].items()}})


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The accounts of all sources of ``data.train`` or ``data.eval``."""

    which: str
    accounts: tuple[Account, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the ledger as it stands in ``ledger.json``, below its ``which``."""
        counts = {key: value for key, value in asdict(Account(source="")).items() if value == 0}
        total = {key: sum(getattr(account, key) for account in self.accounts) for key in counts}
        total["refused"] = sum(account.refused_rows for account in self.accounts)
        return {"which": self.which, "sources": [asdict(account) for account in self.accounts], "total": total}


def check(accounts: Sequence[Account], tolerance: float) -> None:
    """Stop before training where too many rows of a source were refused, or none is left.

    Each source is held to the tolerance on its own: in a mixture, a small source that is all broken would not show.

    Raises:
        DataError: The message lists each reason with the rows.
    """
    for account in accounts:
        refused = account.refused_rows
        if account.kept and refused <= tolerance * account.read:
            continue
        if not account.read:
            raise DataError(account.source, "it holds no rows", fix="give a file with rows")
        some = f"{refused:,} of {account.read:,} rows ({refused / account.read:.1%})" if account.kept else ""
        fixes = ["mend or remove these rows", "raise data.refused_tolerance"]
        if not account.kept:
            fixes = ["mend the rows", "name another format"]
        if "max_length" in max(account.refused, key=lambda reason: account.refused[reason].count):
            fixes.insert(0, "raise data.max_length")
        raise DataError(
            account.source,
            f"{some or f'all {account.read:,} rows'} were refused",
            f"data.refused_tolerance is {tolerance:.1%}" if account.kept else "",
            "\n  ".join([f"{', '.join(fixes[:-1])}, or {fixes[-1]}:", *account.told_refused()]),
        )
