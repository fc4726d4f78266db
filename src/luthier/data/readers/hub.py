# SPDX-License-Identifier: Apache-2.0
"""Data sets of the ``datasets`` library: from the hub, or saved by ``save_to_disk``.

``datasets`` takes 0.8 s to import, so it is imported only where one of these is asked for.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from luthier.core.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from luthier.data.readers.lines import Numbered

BATCH = 512  # rows held as Python objects
_YES = {"1", "true", "yes", "on"}


def from_disk(folder: Path, where: str, split: str) -> Any:
    """Open a folder that ``save_to_disk`` wrote.

    Raises:
        DataError: It cannot be read, or has no such split.
    """
    from datasets import DatasetDict, load_from_disk

    try:
        found = load_from_disk(str(folder))
    except Exception as error:
        raise DataError(where, f"datasets cannot read it ({_short(error)})", "a folder of save_to_disk") from error
    if not isinstance(found, DatasetDict):
        return found
    if split not in found:
        raise DataError(where, f"has no split {split!r}", did_you_mean(split, found), "name one with split:")
    return found[split]


def from_hub(name: str, where: str, split: str, config: str | None = None) -> Any:
    """Load a data set by its hub name, from the hub or the hub's cache.

    Args:
        name: `org/name`.
        where: What messages call it.
        split: One of its splits.
        config: One of its configurations; None is its default.

    Raises:
        DataError: There is none, or the hub may not be asked.
    """
    offline = (
        os.environ.get("HF_HUB_OFFLINE", "").lower() in _YES
        or os.environ.get("HF_DATASETS_OFFLINE", "").lower() in _YES
    )
    try:
        from datasets import load_dataset

        return load_dataset(name, config, split=split)
    except Exception as error:
        if offline:
            raise DataError(
                where,
                "no such file or folder, and not in the hub's cache; HF_HUB_OFFLINE forbids asking the hub",
                "a path, or a data set that was downloaded before",
                "correct the path, or unset HF_HUB_OFFLINE and HF_DATASETS_OFFLINE",
            ) from error
        raise DataError(
            where,
            f"no such file or folder, and the hub gave none for split {split!r} ({_short(error)})",
            "a path, or the name of a hub data set",
            "correct the name, the split or the connection",
        ) from error


def rows(dataset: Any) -> Iterator[Numbered]:
    """Yield the rows of a data set, numbered from 1."""
    number = 0
    for batch in dataset.iter(batch_size=BATCH):
        names = list(batch)
        for values in zip(*batch.values(), strict=True):
            number += 1
            yield number, dict(zip(names, values, strict=True))


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"
