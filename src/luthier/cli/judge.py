# SPDX-License-Identifier: Apache-2.0
"""Let a language model judge answers to MT-bench or BELLE, and show the tables.

`luthier judge answers RUN ... --bench DIR` writes model_answer/NAME.jsonl (NAME=RUN gives a name; with --base-url the
models of an endpoint answer);
`luthier judge NAME ... --bench DIR --model gpt-4` judges them over OpenAI's protocol, key in OPENAI_API_KEY;
`luthier judge --table DIR` shows what judges said. --bench embedded ships. Judging goes on where it was stopped.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from luthier.core.errors import RunFailed, UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from luthier.judge.answers import Generate
    from luthier.judge.bench import Bench
    from luthier.judge.cost import Prices
    from luthier.judge.judging import Outcome, Plan

ANSWERS = "answers"


def main(  # noqa: PLR0913 - each is an option
    words: Annotated[list[str] | None, typer.Argument(help="Models, or `answers` and runs.", metavar="[NAMES]")] = None,
    bench: Annotated[str | None, typer.Option(help="Folder of a bench, or `embedded`.")] = None,
    output: Annotated[Path | None, typer.Option(help="Where answers and judgments go, unless into the bench.")] = None,
    table: Annotated[Path | None, typer.Option(help="Show the judgments of this bench.")] = None,
    model: Annotated[str | None, typer.Option(help="The judge.")] = None,
    mode: Annotated[str, typer.Option(help="single, pairwise-baseline or pairwise-all.")] = "single",
    baseline: Annotated[str | None, typer.Option(help="The model that others are compared with.")] = None,
    against: Annotated[str | None, typer.Option(help="With --table: a second judge, for their agreement.")] = None,
    reference: Annotated[str | None, typer.Option(help="Name of the file in reference_answer/.")] = None,
    items: Annotated[int | None, typer.Option(min=1, help="Only the first so many questions.")] = None,
    base_url: Annotated[str | None, typer.Option(help="Endpoint, such as http://localhost:8000/v1.")] = None,
    key_variable: Annotated[str, typer.Option(help="Environment variable of the key.")] = "OPENAI_API_KEY",
    parameter: Annotated[list[str] | None, typer.Option(help="KEY=JSON of the requests; null takes one out.")] = None,
    parallel: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 16,
    attempts: Annotated[int, typer.Option(min=1, help="Of each request.")] = 8,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for a whole reply.")] = 120.0,
    price_in: Annotated[float | None, typer.Option(min=0.0, help="Price of a million tokens of questions.")] = None,
    price_out: Annotated[float | None, typer.Option(min=0.0, help="Price of a million tokens of replies.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before anything is sent.")] = False,
    seed: Annotated[int, typer.Option(help="With answers: of the draws.")] = 0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="With answers: longest of a turn.")] = 1024,
    batch_size: Annotated[int, typer.Option(min=1, help="With answers: questions at a time.")] = 16,
    system: Annotated[str | None, typer.Option(help="With answers: system prompt.")] = None,
    again: Annotated[bool, typer.Option("--again", help="With answers: replace those that are there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """See the module's text."""
    from luthier.judge.bench import open_bench
    from luthier.judge.cost import Prices

    names = list(words or [])
    if table is not None:
        _check_place(table, "--table")
        opened = open_bench(bench, output or table) if bench else None
        _table(table, opened, names, (model, against, baseline), mode, as_json)
        return
    if bench is None:
        raise UserError("luthier judge", "neither --bench nor --table", "one of them", "name a bench with --bench DIR")
    opened = open_bench(bench, output, items)
    if names[:1] == [ANSWERS]:
        how = {"seed": seed, "max_new_tokens": max_new_tokens, "batch_size": batch_size, "system": system}
        place = {"base_url": base_url, "key_variable": key_variable, "timeout": timeout}
        there = partial(_there, place=place, patient=(parallel, attempts), words=parameter or [])
        _answers(opened, names[1:], there if base_url else _here, how, again, as_json)
        return
    if model is None:
        raise UserError("luthier judge", "no judge", "--model NAME", "name the judge, such as --model gpt-4")
    from luthier.judge.client import Client
    from luthier.judge.queue import Patience

    judging, plan = _plan(opened, names, model, (mode, baseline, reference), parameter or [])
    client = None
    if plan.requests:
        client = Client(model, base_url=base_url, key_variable=key_variable, timeout=timeout)
    prices = Prices(tokens_in=price_in, tokens_out=price_out)
    _agree(plan, prices, yes)
    patience = Patience(parallel=parallel, attempts=attempts)
    outcome = judging.run(plan, client, patience, partial(_bar, quiet=not sys.stderr.isatty()))
    _said(outcome, prices, as_json)


def _check_place(folder: Path, word: str) -> None:
    if not folder.is_dir():
        raise UserError(f"{word} {folder}", "no such folder", "a bench with judgments", "check the path")


def _table(
    table: Path,
    bench: Bench | None,
    names: list[str],
    whom: tuple[str | None, str | None, str | None],
    mode: str,
    as_json: bool,
) -> None:
    from luthier.judge import report
    from luthier.judge.matches import BASELINE, MODES

    if mode not in MODES:
        raise UserError("--mode", repr(mode), ", ".join(MODES), "choose one")
    judge, against, baseline = whom
    if mode == "pairwise-baseline":
        baseline = baseline or BASELINE
    choice = report.Choice(judge=judge, against=against, baseline=baseline, models=tuple(names))
    tree = report.single(table, bench, choice) if mode == "single" else report.pairs(table, choice)
    print(json.dumps(tree, ensure_ascii=False) if as_json else "\n".join(report.said(tree)))


def _answers(
    bench: Bench,
    words: list[str],
    opening: Callable[[str], tuple[Generate, str]],
    how: dict[str, Any],
    again: bool,
    as_json: bool,
) -> None:
    from luthier.judge.answers import Settings, answer, named

    models = named(words)
    if not models:
        raise UserError("luthier judge answers", "no model", "runs or models", "name one behind `answers`")
    files = {}
    for name, place in models.items():
        generate, weights = opening(place)
        said: dict[str, Any] = {"again": again, "say": lambda word: print(word, file=sys.stderr)}
        files[name] = str(answer(bench, name, generate, Settings(**how), weights=weights, **said))
    print(json.dumps({"answers": files}, ensure_ascii=False) if as_json else "\n".join(files.values()))


def _here(place: str) -> tuple[Generate, str]:
    """A run or model of this machine, and what tells it from others of its name."""
    from luthier.judge.answers import weights_of
    from luthier.models.generate import generate
    from luthier.run import load

    return partial(generate, *load(place)), weights_of(place)


def _there(model: str, *, place: dict[str, Any], patient: tuple[int, int], words: list[str]) -> tuple[Generate, str]:
    """A model behind an endpoint."""
    from luthier.judge.client import Client
    from luthier.judge.queue import Patience
    from luthier.judge.students import student

    client = Client(model, **place, empty=True, role="model")
    return student(client, Patience(parallel=patient[0], attempts=patient[1]), _given(words)), f"endpoint: {model}"


def _plan(
    bench: Bench, names: list[str], model: str, how: tuple[str, str | None, str | None], words: list[str]
) -> tuple[Any, Plan]:
    """What is to be judged, and how much of it is there."""
    from luthier.judge.bench import references_of
    from luthier.judge.judging import Judging
    from luthier.judge.matches import BASELINE, plan

    mode, baseline, reference = how
    references, source = references_of(bench, model, reference)
    if source:
        print(f"reference answers: {source}", file=sys.stderr)
    models = names or list(bench.names("model_answer"))
    if not models:
        fix = "`luthier judge answers RUN --bench DIR` writes one"
        raise UserError(f"bench {bench.output}", "no answers", "model_answer/MODEL.jsonl", fix)
    matches = plan(bench, models, references, mode, baseline or BASELINE)
    judging = Judging(bench, model, _parameters(dict(bench.rules.PARAMETERS), words))
    return judging, judging.plan(matches)


def _parameters(parameters: dict[str, Any], words: list[str]) -> dict[str, Any]:
    return {key: value for key, value in {**parameters, **_given(words)}.items() if value is not None}


def _given(words: list[str]) -> dict[str, Any]:
    """Words KEY=JSON.

    Raises:
        UserError: One is none, or what the protocol keeps for itself.
    """
    parameters: dict[str, Any] = {}
    for word in words:
        key, given, value = word.partition("=")
        if not given or not key or key in ("model", "messages", "stream", "n"):
            raise UserError("--parameter", repr(word), "KEY=JSON, such as max_tokens=1024", "correct it")
        try:
            parameters[key] = json.loads(value)
        except ValueError:
            parameters[key] = value  # a word needs no quotes
    return parameters


def _agree(plan: Plan, prices: Prices, yes: bool) -> None:
    """Say what it will cost, and ask.

    Raises:
        UserError: The answer is no, or nobody is there to give one.
    """
    there = f"{plan.done} judgments are there; " if plan.done else ""
    stale = f"{len(plan.stale)} of other answers or prompts are replaced; " if plan.stale else ""
    print(f"{there}{stale}{plan.estimate.said(prices)}", file=sys.stderr)
    if not plan.requests or yes:
        return
    if not sys.stdin.isatty():
        raise UserError("luthier judge", "nobody to ask whether to send this", "--yes", "add --yes to send it")
    print("Send them? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UserError("luthier judge", "not agreed to", fix="nothing was sent")


def _bar(done: int, total: int, *, quiet: bool) -> None:
    if not quiet:
        print(f"\r{done} of {total} replies", end="\n" if done == total else "", file=sys.stderr, flush=True)


def _said(outcome: Outcome, prices: Prices, as_json: bool) -> None:
    """Tell what became of it.

    Raises:
        RunFailed: Some of it failed.
    """
    paid = prices.of(outcome.tokens_in, outcome.tokens_out)
    if as_json and not outcome.failed:
        tree = {key: getattr(outcome, key) for key in ("judged", "done", "without_rating", "tokens_in", "tokens_out")}
        print(json.dumps({"file": str(outcome.file), **tree, "failed": [], "cost": paid}, ensure_ascii=False))
    money = "" if paid is None else f", {paid:.2f} paid"
    unrated = f", {outcome.without_rating} without a rating" if outcome.without_rating else ""
    tokens = f"{outcome.tokens_in:,} tokens in, {outcome.tokens_out:,} out{money}"
    print(f"{outcome.judged} judged{unrated} ({tokens}): {outcome.file}", file=sys.stderr if as_json else sys.stdout)
    if outcome.failed:
        received = f"{len(outcome.failed)} judgments failed, the first one with: {outcome.failed[0]['reason']}"
        named = outcome.file.with_name(f"{outcome.file.stem}_failed.jsonl")
        raise RunFailed("luthier judge", received, f"{named} names them; none is scored", "the same command asks again")
