# SPDX-License-Identifier: Apache-2.0
"""The labels that training rows have: read from their files before anything is tokenised, counted afterwards."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from luthier.core.home import home
from luthier.core.tasks import Labelled, Tagged
from luthier.data.faults import RowFault
from luthier.data.labelling import Tally, settle
from luthier.data.source import code
from luthier.data.store import unwritable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from luthier.core.tasks import Labels, Problem
    from luthier.data.prepare import Opening
    from luthier.data.rows import Rows
    from luthier.recipe.schema import Data


def labels_of(data: Data, training: Sequence[Opening], problem: Problem | None) -> Labels:
    """Find out what the training rows are labelled with.

    Args:
        data: `labels`, if the recipe names them.
        training: The sources of the training rows.
        problem: What the objective says that labels are; None: what the rows look like.

    Raises:
        DataError: A source cannot be read, or there is nothing to tell apart.
    """
    words = training[0].reading.kind == "tagged"
    settled: Problem | None = "single_label_classification" if words else problem
    return settle([_tally(opening) for opening in training], data.labels, settled, "data.train")


def counted(labels: Labels, rows: Rows) -> Labels:
    """Add how often each label stands in the rows; windows of one long row share its words, so no word counts twice."""
    if labels.problem == "regression":
        return labels
    total = np.zeros(len(labels), np.int64)
    for store in rows.stores:
        if "labels" in store.told:
            found = store.told["labels"]
            total += np.bincount(found[found >= 0], minlength=len(labels))
        elif labels.problem == "single_label_classification":
            total += np.bincount(store.told["targets"][:, 0].astype(np.int64), minlength=len(labels))
        else:
            total += store.told["targets"].sum(axis=0).astype(np.int64)
    return replace(labels, counts=tuple(total.tolist()))


def _tally(opening: Opening) -> Tally:
    """Count the labels of one source, or take the counts from the cache."""
    facts = json.dumps([code(), opening.key])
    file = home() / "labels" / f"{hashlib.sha256(facts.encode()).hexdigest()[:32]}.json"
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = _read(opening)
        _keep(file, found)
        return found
    widths = Counter({int(width): count for width, count in tree["widths"].items()})
    names, wholes, faults = (Counter(tree[name]) for name in ("names", "wholes", "faults"))
    return Tally(names=names, lists=tree["lists"], widths=widths, wholes=wholes, faults=faults)


def _read(opening: Opening) -> Tally:
    found, reading = Tally(), opening.reading
    every = (row for part in opening.parts for _, row in part.rows())
    for row in islice(every, opening.source.max_rows):
        try:
            if isinstance(row, RowFault):
                raise row
            example = reading.read(row, reading.columns)
        except RowFault as fault:
            found.faults[fault.reason] += 1  # it is refused where its text is read
            continue
        if isinstance(example, Labelled | Tagged):
            found.add(example)
    return found


def _keep(file: Path, found: Tally) -> None:
    tree = {
        "names": found.names,
        "lists": found.lists,
        "widths": found.widths,
        "wholes": found.wholes,
        "faults": found.faults,
    }
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(tree, ensure_ascii=False), encoding="utf-8")
        os.replace(draft, file)
    except OSError as error:
        raise unwritable(file.parent, error) from error
