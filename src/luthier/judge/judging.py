# SPDX-License-Identifier: Apache-2.0
"""Judge answers: what is to be asked, what it will cost, all of it asked, and the judgments filed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from luthier.core.errors import Interrupted
from luthier.judge.cache import Replies, Request
from luthier.judge.cost import Estimate, estimate
from luthier.judge.judgments import FOLDER
from luthier.judge.lines import read_lines, write_lines
from luthier.judge.matches import identity, prompts_of
from luthier.judge.queue import Failure, Patience, Queue
from luthier.judge.rating import NO_RATING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from luthier.judge.bench import Bench
    from luthier.judge.cache import Reply
    from luthier.judge.client import Client
    from luthier.judge.matches import Match

    Row = dict[str, Any]

REPLIES = "replies"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is left to do, and what is known already.

    Attributes:
        file: Where judgments go.
        matches: Those without a judgment of the same question to the judge.
        stale: Identities of rows in the file that will go: the judge was asked something else then.
        done: Matches that have their judgment.
        replies: Kept replies to what is left, by key.
        requests: What has to be sent, each once.
    """

    file: Path
    matches: Sequence[Match]
    stale: frozenset[tuple[Any, ...]]
    done: int
    replies: Mapping[str, Reply]
    requests: Sequence[Request]

    @property
    def estimate(self) -> Estimate:
        """What the requests will cost."""
        return estimate(self.requests, len(self.replies))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of every match.

    Attributes:
        file: Of the judgments.
        judged: Matches that have a judgment now and had none before.
        done: Matches that had one.
        without_rating: Of the judged: the reply holds no rating, or no verdict.
        failed: Matches without a judgment, and why.
        tokens_in: Of the replies of this call, as the endpoint counted them.
        tokens_out: Likewise.
    """

    file: Path
    judged: int
    done: int
    without_rating: int
    failed: Sequence[Row] = field(default_factory=tuple)
    tokens_in: int = 0
    tokens_out: int = 0


class Judging:
    """A judge and a bench.

    Args:
        bench: Whose answers are judged; judgments and replies go into its output folder.
        model: The judge.
        parameters: Of its replies; the bench's own unless given.
    """

    def __init__(self, bench: Bench, model: str, parameters: Mapping[str, Any] | None = None) -> None:
        self.bench, self.model = bench, model
        self.parameters = dict(bench.rules.PARAMETERS if parameters is None else parameters)
        self.replies = Replies(bench.output / REPLIES)

    def plan(self, matches: Sequence[Match]) -> Plan:
        """Look what is there: nothing is sent.

        Raises:
            DataError: A file of judgments cannot be read.
        """
        kind = "pair" if matches and len(matches[0].models) > 1 else "single"
        file = self.bench.output / FOLDER / f"{self.model.replace('/', '--')}_{kind}.jsonl"
        by_identity = {identity(row): row for row in _stored(file)}
        left, stale = [], set()
        for match in matches:
            row = by_identity.get(match.identity)
            if row is None or not self._same(row, match):
                left.append(match)
                stale |= {match.identity} if row is not None else set()
        wanted = {one.key: one for match in left for one in self.requests(match)}
        kept = {key: reply for key, one in wanted.items() if (reply := self.replies.get(one)) is not None}
        return Plan(
            file=file,
            matches=left,
            stale=frozenset(stale),
            done=len(matches) - len(left),
            replies=kept,
            requests=[one for key, one in wanted.items() if key not in kept],
        )

    def requests(self, match: Match) -> list[Request]:
        """What is sent for a match."""
        return [Request(model=self.model, messages=asked.messages, parameters=self.parameters) for asked in match.asked]

    def _same(self, row: Row, match: Match) -> bool:
        """Whether a stored row answers the same question; FastChat's rows are told by the prompts in them."""
        if "request" in row:
            return bool(row["request"] == [one.key for one in self.requests(match)])
        return prompts_of(row) == [asked.user for asked in match.asked]

    def run(
        self,
        plan: Plan,
        client: Client,
        patience: Patience | None = None,
        say: Callable[[int, int], None] | None = None,
    ) -> Outcome:
        """Ask for what is missing and file every judgment; what failed is named in `*_failed.jsonl` and not scored.

        Args:
            plan: Of :meth:`plan`.
            client: Whom to ask.
            patience: How hard to try.
            say: Called with the number of replies so far, and of all that are asked for.

        Raises:
            RunFailed: The endpoint answers nobody, or the disk is full. Replies that came are kept.
            Interrupted: Ctrl-C; the same call goes on.
        """
        sent = 0

        def keep(request: Request, reply: Reply) -> None:
            nonlocal sent
            self.replies.put(request, reply)
            sent += 1
            if say is not None:
                say(sent, len(plan.requests))

        found: dict[str, Reply | Failure] = dict(plan.replies)
        if plan.requests:
            try:
                new = asyncio.run(Queue(client, patience or Patience(), keep).ask(plan.requests))
            except KeyboardInterrupt:
                received = f"stopped after {sent} of {len(plan.requests)} replies"
                raise Interrupted(f"judge {self.model}", received, fix="the same command goes on") from None
            found |= new
        return self._file(plan, found)

    def _file(self, plan: Plan, found: Mapping[str, Reply | Failure]) -> Outcome:
        rows, failed = [], []
        for match in plan.matches:
            keys = [one.key for one in self.requests(match)]
            got = [found[key] for key in keys]
            replies = [one for one in got if not isinstance(one, Failure)]
            if len(replies) == len(keys):
                rows.append(match.row(self.model, replies, keys, self.bench.rules))
            else:
                lost = next(one for one in got if isinstance(one, Failure))
                failed.append(match.columns | {"reason": lost.reason, "attempts": lost.attempts})
        if rows or plan.stale:
            # Read once more: another process may have judged other models meanwhile.
            gone = plan.stale | {identity(row) for row in rows}
            write_lines(plan.file, [*(row for row in _stored(plan.file) if identity(row) not in gone), *rows])
        _write_failed(plan.file, failed)
        new = {request.key for request in plan.requests}
        paid = [one for key, one in found.items() if key in new and not isinstance(one, Failure)]
        return Outcome(
            file=plan.file,
            judged=len(rows),
            done=plan.done,
            without_rating=sum(row.get("score") == NO_RATING or "error" in _verdicts(row) for row in rows),
            failed=failed,
            tokens_in=sum(one.tokens_in for one in paid),
            tokens_out=sum(one.tokens_out for one in paid),
        )


def _stored(file: Path) -> list[Row]:
    return [row for _, row in read_lines(file)] if file.exists() else []


def _verdicts(row: Row) -> tuple[Any, Any]:
    return row.get("g1_winner"), row.get("g2_winner")


def _write_failed(file: Path, failed: Sequence[Row]) -> None:
    """Beside the judgments, under a name that no table reads; gone where nothing failed."""
    place = file.with_name(f"{file.stem}_failed.jsonl")
    if failed:
        write_lines(place, failed)
    else:
        place.unlink(missing_ok=True)
