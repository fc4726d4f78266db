# SPDX-License-Identifier: Apache-2.0
"""Sources of a recipe -> rows of tokens, from the cache where nothing has changed."""

from __future__ import annotations

import hashlib
import inspect
import json
from dataclasses import asdict, dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from luthier.core.errors import DataError, RecipeError
from luthier.core.home import home
from luthier.data import ledger
from luthier.data.columns import Reading, choose
from luthier.data.faults import RowFault
from luthier.data.fill import Context, fill
from luthier.data.ledger import Account, Ledger
from luthier.data.render import Renderer
from luthier.data.rows import Rows
from luthier.data.source import Part, Say, locate
from luthier.data.store import Store, Writer, whole
from luthier.data.template import resolve
from luthier.data.vocabulary import vocabulary

if TYPE_CHECKING:
    from luthier.core.tasks import RowKind
    from luthier.recipe.schema import Data, Source

HEAD = 64  # rows whose columns tell the format


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What training needs.

    Attributes:
        rows: Every row that was kept.
        ledger: What became of the others.
        chat_template: Jinja text to save with the model, or None where there is none.
    """

    rows: Rows
    ledger: Ledger
    chat_template: str | None

    def digest(self) -> str:
        """What a run trains on, in 16 digits: every token of every row, which are scored, how they are judged."""
        found = hashlib.sha256()
        for store in self.rows.stores:
            for array in (store.tokens, store.scored, store.offsets, *store.judged.values()):
                found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()[:16]


def prepare(
    data: Data,
    tokenizer: Any,
    *,
    which: Literal["train", "eval"],
    kind: RowKind | None = None,
    say: Say = lambda _: None,
) -> Prepared:
    """Read, render and tokenise the rows of ``data.train`` or ``data.eval``, or take them from the cache.

    Args:
        data: That section of the recipe.
        tokenizer: A fast tokenizer of transformers.
        which: Which of the two.
        kind: Which rows the objective takes; None takes what the sources hold, all of one kind.
        say: Receives one line at a time about what happens.

    Raises:
        DataError: A source cannot be read, too many rows are refused, or the token gate finds a fault.
        RecipeError: A format or template has an unknown name, or a key means nothing to such rows.
    """
    sources = data.train if which == "train" else data.eval
    if not sources:
        raise DataError(f"data.{which}", "no source", "a path, or a list of sources", f"add {which}: to data:")
    if kind is not None:
        _fitting(data, kind)
    context = open_context(data, tokenizer, say)
    if which == "train" and context.tokenizer.model_max_length < data.max_length:  # said once a run
        longest = context.tokenizer.model_max_length
        say(f"data.max_length is {data.max_length:,}, but the tokenizer's model_max_length is {longest:,}")
    stores = [_stored(context, source, which, kind) for source in sources]
    accounts = tuple(Account.from_json(store.about["account"]) for store in stores)
    ledger.check(accounts, data.refused_tolerance)
    for account in accounts:
        say("\n  ".join([f"{account.source}: {account.told_kept()}", *account.told()]))
    template = context.renderer.template.source if context.renderer else None
    return Prepared(rows=Rows(stores), ledger=Ledger(which=which, accounts=accounts), chat_template=template)


def open_context(data: Data, tokenizer: Any, say: Say) -> Context:
    """Fit the recipe's chat template to a tokenizer.

    Raises:
        DataError: The tokenizer or the template cannot be used.
        RecipeError: The template has an unknown name.
    """
    words = vocabulary(tokenizer)
    template = resolve(data.chat_template, tokenizer, words, say)
    renderer = Renderer(tokenizer, words, template, data.loss_on, data.system) if template else None
    return Context(data=data, tokenizer=tokenizer, vocabulary=words, renderer=renderer, say=say)


def _fitting(data: Data, kind: RowKind) -> None:
    """Refuse keys that mean nothing to such rows.

    Raises:
        RecipeError: The message names the key.
    """
    if kind == "judged" and data.loss_on == "all":
        allowed = "assistant or last: an objective judges answers, not prompts"
        raise RecipeError("data.loss_on", "'all' with judged answers", allowed, "remove data.loss_on")
    if kind == "judged":
        return
    if data.max_prompt_length is not None:
        allowed = "max_length alone: rows of this objective have no prompt apart from the rest"
        raise RecipeError("data.max_prompt_length", f"{data.max_prompt_length}", allowed, "remove it")
    if not data.share_prompts:
        allowed = "true: rows of this objective have one answer each, and no prompt to share"
        raise RecipeError("data.share_prompts", "false", allowed, "remove it")


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
    return choose(source.path, source.format, source.columns, list(columns), f"data.{which}", kind=kind)


def _stored(context: Context, source: Source, which: str, kind: RowKind | None) -> Store:
    """Return the store of one source; make it where it is not in the cache."""
    parts = locate(source, which, context.say)
    reading = read_head(source, parts, which, kind)
    _fitting(context.data, reading.kind)
    columns = ", ".join(own if own == given else f"{own} = {given}" for own, given in reading.columns.items())
    unused = f"; not used: {', '.join(reading.unused)}" if reading.unused else ""
    context.say(f"{source.path}: format {reading.format} ({columns}){unused}")
    folder = home() / "data" / _key(context, source, parts, reading)
    if whole(folder):
        return Store(folder)
    account = Account(source=source.path, format=reading.format, columns=reading.columns, unused=list(reading.unused))
    with Writer(folder, judged=reading.kind == "judged") as writer:
        fill(context, parts, reading, account, writer, max_rows=source.max_rows)
        if not writer.rows:
            ledger.check([account], context.data.refused_tolerance)
        writer.commit({"parts": [part.label for part in parts], "account": asdict(account)})
    return Store(folder)


def _key(context: Context, source: Source, parts: tuple[Part, ...], reading: Reading) -> str:
    """Hash everything that the stored tokens depend on, the code that makes them included."""
    data, template = context.data, context.renderer.template.source if context.renderer else None
    facts = [
        [_code(), inspect.getsource(inspect.getmodule(reading.read) or reading.read)],
        [[part.label, part.digest()] for part in parts],
        [source.path, source.max_rows, reading.format, reading.columns, template, context.vocabulary.digest],
        [data.max_length, data.max_prompt_length, data.truncation, data.loss_on, data.system],
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


@cache
def _code() -> str:
    """Hash this folder's source: a change to it makes every stored token doubtful, with no version to forget."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
