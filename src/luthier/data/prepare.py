# SPDX-License-Identifier: Apache-2.0
"""Sources of a recipe -> rows of tokens, from the cache where nothing has changed."""

from __future__ import annotations

import hashlib
import inspect
import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from luthier.core.errors import DataError
from luthier.core.home import home
from luthier.data import ledger
from luthier.data.columns import Reading, choose
from luthier.data.faults import RowFault
from luthier.data.fill import Context, fill, kind_of_rows
from luthier.data.fitting import fitting
from luthier.data.labelling import Numbers, told
from luthier.data.ledger import Account, Ledger
from luthier.data.names import counted, labels_of
from luthier.data.render import Renderer
from luthier.data.rows import Rows
from luthier.data.source import Part, Say, code, locate
from luthier.data.store import Store, Writer, whole
from luthier.data.template import resolve
from luthier.data.vocabulary import vocabulary

if TYPE_CHECKING:
    from luthier.core.tasks import Labels, Problem, RowKind, Task
    from luthier.recipe.schema import Data, Source

HEAD = 64  # rows whose columns tell the format


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What training needs.

    Attributes:
        rows: Every row that was kept.
        ledger: What became of the others.
        chat_template: Jinja text to save with the model, or None where there is none.
        context: What made their tokens.
        openings: Their sources.
        labels: What rows can be labelled with, with how often each stands in the training rows; None for other rows.
    """

    rows: Rows
    ledger: Ledger
    chat_template: str | None
    context: Context
    openings: tuple[Opening, ...]
    labels: Labels | None = None

    def digest(self) -> str:
        """What a run trains on, in 16 digits: every token of every row, which are scored, how they are judged."""
        found = hashlib.sha256()
        for store in self.rows.stores:
            arrays = (store.tokens, store.scored, store.offsets, *store.branches.values(), *store.told.values())
            for array in arrays:
                found.update(np.ascontiguousarray(array).data)
        if self.labels is not None:
            found.update(json.dumps([self.labels.names, self.labels.problem]).encode())
        return found.hexdigest()[:16]


def prepare(
    data: Data,
    tokenizer: Any,
    *,
    which: Literal["train", "eval"],
    kind: RowKind | None = None,
    task: Task = "CAUSAL_LM",
    labels: Labels | None = None,
    problem: Problem | None = None,
    say: Say = lambda _: None,
) -> Prepared:
    """Read, render and tokenise the rows of ``data.train`` or ``data.eval``, or take them from the cache.

    Args:
        data: That section of the recipe.
        tokenizer: A fast tokenizer of transformers.
        which: Which of the two.
        kind: Which rows the objective takes; None takes what the sources hold, all of one kind.
        task: What the model is for: with `SEQ_2_SEQ_LM` plain rows become a source and a target.
        labels: Those of the training rows, for rows to evaluate on; None: they are looked up in the training rows.
        problem: What labels are, where the objective says it; None: what the training rows look like.
        say: Receives one line at a time about what happens.

    Raises:
        DataError: A source cannot be read, too many rows are refused, or the token gate finds a fault.
        RecipeError: A format or template has an unknown name, or a key means nothing to such rows.
    """
    sources = data.train if which == "train" else data.eval
    if not sources:
        raise DataError(f"data.{which}", "no source", "a path, or a list of sources", f"add {which}: to data:")
    if kind is not None:
        fitting(data, kind, task)
    context = open_context(data, tokenizer, say, task)
    if which == "train" and context.tokenizer.model_max_length < data.max_length:  # said once a run
        longest = context.tokenizer.model_max_length
        say(f"data.max_length is {data.max_length:,}, but the tokenizer's model_max_length is {longest:,}")
    openings = [open_source(source, which, kind, say) for source in sources]
    kinds = list(dict.fromkeys(opening.reading.kind for opening in openings))
    if len(kinds) > 1:
        received = f"rows of different kinds: {', '.join(kinds)}"
        raise DataError(f"data.{which}", received, "one kind a run", "leave sources out, or name their format:")
    fitting(data, kinds[0], task)
    if kinds[0] in ("labelled", "tagged"):
        training = openings if which == "train" else [open_source(source, "train", kind, say) for source in data.train]
        labels = labels or labels_of(data, training, problem)
        say(told(labels))
        context = replace(context, numbers=Numbers(labels))
    stores = [_stored(context, opening) for opening in openings]
    accounts = tuple(Account.from_json(store.about["account"]) for store in stores)
    ledger.check(accounts, data.refused_tolerance)
    for account in accounts:
        say("\n  ".join([f"{account.source}: {account.told_kept()}", *account.told()]))
    template = context.renderer.template.source if context.renderer else None
    rows = Rows(stores)
    if labels is not None and which == "train":
        labels = counted(labels, rows)
    return Prepared(
        rows=rows,
        ledger=Ledger(which=which, accounts=accounts),
        chat_template=template,
        context=context,
        openings=tuple(openings),
        labels=labels,
    )


def open_context(data: Data, tokenizer: Any, say: Say, task: Task = "CAUSAL_LM") -> Context:
    """Fit the recipe's chat template to a tokenizer.

    Raises:
        DataError: The tokenizer or the template cannot be used.
        RecipeError: The template has an unknown name.
    """
    words = vocabulary(tokenizer)
    template = resolve(data.chat_template, tokenizer, words, say)
    renderer = Renderer(tokenizer, words, template, data.loss_on, data.system) if template else None
    return Context(data=data, tokenizer=tokenizer, vocabulary=words, renderer=renderer, say=say, task=task)


@dataclass(frozen=True, kw_only=True)
class Opening:
    """A source that was found, and how its rows are read.

    Attributes:
        source: As the recipe names it.
        parts: Where its rows are.
        reading: How they are read.
    """

    source: Source
    parts: tuple[Part, ...]
    reading: Reading

    @cached_property
    def key(self) -> list[Any]:
        """Everything that what is read depends on, the code that reads it included."""
        reading = self.reading
        return [
            inspect.getsource(inspect.getmodule(reading.read) or reading.read),
            [[part.label, part.digest()] for part in self.parts],
            [self.source.path, self.source.max_rows, reading.format, reading.columns],
        ]


def open_source(source: Source, which: str, kind: RowKind | None, say: Say) -> Opening:
    """Find a source and choose its format.

    Raises:
        DataError: There is nothing there, no format fits, or none of the first rows can be read.
    """
    parts = locate(source, which, say)
    return Opening(source=source, parts=parts, reading=read_head(source, parts, which, kind))


def read_head(source: Source, parts: tuple[Part, ...], which: str, kind: RowKind | None) -> Reading:
    """Choose the format from the columns of the first rows.

    Raises:
        DataError: No format fits, or none of the first rows can be read.
    """
    columns: dict[str, None] = {}
    faults, good = [], 0
    for number, row in islice(parts[0].rows(), 16 * HEAD):
        if isinstance(row, RowFault):
            faults.append((number, row))
            continue
        columns |= dict.fromkeys(row)
        good += 1
        if good == HEAD:
            break
    if not good and faults:
        number, fault = faults[0]
        many = f"; so are all of the first {len(faults)} rows" if len(faults) > 1 else ""
        raise DataError(f"{parts[0].label}:{number}", f"{fault}{many}", fix="mend or convert the file")
    if not good:
        raise DataError(parts[0].label, "it holds no rows", fix="give a file with rows")
    named = {own: str(given) for own, given in source.columns.items()}
    return choose(source.path, source.format, named, list(columns), f"data.{which}", kind=kind)


def _stored(context: Context, opening: Opening) -> Store:
    """Return the store of one source; make it where it is not in the cache."""
    source, reading = opening.source, opening.reading
    columns = ", ".join(own if own == given else f"{own} = {given}" for own, given in reading.columns.items())
    unused = f"; not used: {', '.join(reading.unused)}" if reading.unused else ""
    context.say(f"{source.path}: format {reading.format} ({columns}){unused}")
    folder = home() / "data" / _key(context, opening)
    if whole(folder):
        return Store(folder)
    name, kind = kind_of_rows(reading.kind, context.task)
    account = Account(source=source.path, format=reading.format, kind=name, columns=reading.columns)
    account.unused += reading.unused
    with Writer(folder, branched=kind.BRANCHED, told=kind.arrays(context, frozenset(reading.columns))) as writer:
        fill(context, opening.parts, reading, account, writer, max_rows=source.max_rows)
        if not writer.rows:
            ledger.check([account], context.data.refused_tolerance)
        parts = [part.label for part in opening.parts]
        writer.commit({"kind": name, "parts": parts, "account": asdict(account)})
    return Store(folder)


def _key(context: Context, opening: Opening) -> str:
    """Hash everything that the stored tokens depend on, the code that makes them included."""
    data, template = context.data, context.renderer.template.source if context.renderer else None
    labels = context.numbers.key() if context.numbers else None
    facts = [
        code(),
        opening.key,
        [template, context.vocabulary.digest, context.task, labels],
        [data.max_length, data.max_prompt_length, data.truncation, data.loss_on, data.system, data.doc_stride],
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
