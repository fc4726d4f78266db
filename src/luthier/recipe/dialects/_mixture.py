# SPDX-License-Identifier: Apache-2.0
"""Which rows a recipe of TRL or the alignment-handbook names: one data set, or a mixture in one of three forms."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import did_you_mean
from luthier.recipe.text import said

if TYPE_CHECKING:
    from luthier.recipe.dialects._draft import Draft

KEYS = (
    "dataset_config",
    "dataset_configs",
    "dataset_mixer",
    "dataset_mixture",
    "dataset_name",
    "dataset_splits",
    "dataset_test_split",
    "dataset_train_split",
    "datasets",
    "test_split_size",
)
_ENTRY = {"id", "path", "config", "name", "split", "columns", "weight"}
_MIXTURE = {"datasets", "test_split_size", "seed", "streaming"}
_FILES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".txt", ".gz")


def rows(draft: Draft) -> None:
    """Set `data.train` and, where there are rows for it, `data.eval`."""
    ways = [key for key in ("dataset_mixer", "dataset_mixture", "datasets", "dataset_name") if draft.has(key)]
    if len(ways) > 1:
        draft.refuse(ways[1], f"a second way to name rows, beside {ways[0]}", "one of them", f"remove {ways[1]}")
    draft.taken.update(KEYS)  # what the chosen way does not read has no effect
    if not ways:
        return
    if ways[0] == "dataset_mixer":
        _mixer(draft)
    elif ways[0] == "dataset_name":
        _one(draft)
    elif ways[0] == "datasets":
        _mixture(
            draft, "datasets", {"datasets": draft.take("datasets"), "test_split_size": draft.take("test_split_size")}
        )
    else:
        _mixture(draft, "dataset_mixture", draft.take("dataset_mixture"))


def _one(draft: Draft) -> None:
    """`dataset_name` with `dataset_config` and its two splits."""
    name, config = draft.take("dataset_name"), draft.take("dataset_config")
    splits = {"train": draft.take("dataset_train_split"), "eval": draft.take("dataset_test_split", "test")}
    if _is_file(name):
        draft.ignore("dataset_train_split", "dataset_test_split", "dataset_config")
        draft.put("data.train", [{"path": name}], "dataset_name")
        return
    keys = ("dataset_name", "dataset_config")
    draft.put("data.train", [source(name, config=config, split=splits["train"])], *keys, "dataset_train_split")
    draft.put("data.eval", [source(name, config=config, split=splits["eval"])], *keys, "dataset_test_split")


def _mixer(draft: Draft) -> None:
    """The handbook's older form: `{name: fraction}`, and the splits that are taken of each."""
    mixer, splits = draft.take("dataset_mixer"), draft.take("dataset_splits", ["train", "test"])
    configs = draft.take("dataset_configs")
    if not isinstance(mixer, dict) or not mixer:
        return draft.refuse("dataset_mixer", f"received {said(mixer)}", "{name: fraction}", "as in {org/rows: 1.0}")
    if not isinstance(splits, list):
        return draft.refuse("dataset_splits", f"received {said(splits)}", "a list", "as in [train, test]")
    if configs is not None and (not isinstance(configs, list) or len(configs) != len(mixer)):
        return draft.refuse("dataset_configs", f"received {said(configs)}", "one name for each data set", "correct it")
    found: dict[str, list[dict[str, Any]]] = {"train": [], "eval": []}
    for number, (name, fraction) in enumerate(mixer.items()):
        if _is_file(name):
            found["train"].append(source(name, weight=fraction))
            continue
        config = configs[number] if configs else None
        for split in splits:
            which = "eval" if _held_out(split) else "train"  # the handbook takes test splits whole
            weight = fraction if which == "train" else None
            found[which].append(source(name, config=config, split=split, weight=weight))
    _say_shares(draft, list(mixer.values()))
    _put(draft, found, "dataset_mixer", "dataset_splits", "dataset_configs")
    return None


def _mixture(draft: Draft, key: str, mixture: Any) -> None:
    """The newer form: a list of data sets with split, columns and weight."""
    entries = mixture.get("datasets") if isinstance(mixture, dict) else None
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        return draft.refuse(key, f"received {said(mixture)}", "datasets: [{id, split, …}]", "name a data set")
    unknown = [(f"{key}.{name}", _MIXTURE) for name in mixture if name not in _MIXTURE]
    unknown += [(f"{key}.datasets.{i}.{n}", _ENTRY) for i, e in enumerate(entries) for n in e if n not in _ENTRY]
    for place, known in unknown:
        draft.refuse(place, "unknown key", did_you_mean(place.rpartition(".")[2], known), "correct or remove it")
    found: dict[str, list[dict[str, Any]]] = {"train": [], "eval": []}
    for entry in entries:
        name = entry.get("id") or entry.get("path")
        if not isinstance(name, str):
            return draft.refuse(key, f"received {said(entry)}", "an id for each data set", "add id: NAME")
        split, columns = entry.get("split"), entry.get("columns")
        config = entry.get("config") or entry.get("name")
        which = "eval" if _held_out(split) else "train"
        found[which].append(source(name, config=config, split=split, weight=entry.get("weight"), columns=columns))
        if isinstance(columns, list):
            draft.note("columns: the format of the rows is told by the columns that are there (`luthier data RECIPE`)")
    if "seed" in mixture:
        draft.idle.append(f"{key}.seed")  # `seed` draws the order
    if mixture.get("streaming"):
        fix = "remove it: tokens are kept on disk and mapped, not held in memory"
        draft.refuse(f"{key}.streaming", f"received {said(mixture['streaming'])}", "false", fix)
    _say_shares(draft, [entry.get("weight", 1) for entry in entries])
    size = mixture.get("test_split_size")
    if size and found["eval"]:
        where = ", ".join(dict.fromkeys(entry["split"] for entry in found["eval"]))
        draft.note(
            f"test_split_size {size}: no rows are drawn from the mixture; the splits {where} are data.eval, whole"
        )
    elif size:
        fix = "name a split to evaluate on, as in {id: NAME, split: test}, or remove test_split_size"
        draft.refuse(f"{key}.test_split_size", f"received {said(size)}", "rows are not split at random here", fix)
    return _put(draft, found, key, "test_split_size")


def source(
    path: str, *, config: Any = None, split: Any = None, weight: Any = None, columns: Any = None
) -> dict[str, Any]:
    """One source of rows in our keys, without what is a default; a `default` configuration is none."""
    given = {
        "split": split,
        "config": None if config == "default" else config,
        "weight": None if weight == 1 else weight,
    }
    found: dict[str, Any] = {"path": path} | {key: value for key, value in given.items() if value is not None}
    if isinstance(columns, list) and "messages" in columns:
        found["format"] = "messages"
    elif isinstance(columns, dict) and columns:
        found["columns"] = columns
    return found


def _put(draft: Draft, found: dict[str, list[dict[str, Any]]], *keys: str) -> None:
    for which, sources in found.items():
        if sources:
            draft.put(f"data.{which}", sources, *keys)
    draft.taken.update(keys)


def _say_shares(draft: Draft, weights: list[Any]) -> None:
    if any(isinstance(weight, int | float) and 0 < weight < 1 for weight in weights):
        draft.note("a weight below 1 is a share that is drawn anew in each epoch, not one fixed part of the rows")


def _held_out(split: Any) -> bool:
    return isinstance(split, str) and any(word in split for word in ("test", "valid", "eval", "dev"))


def _is_file(path: Any) -> bool:
    return isinstance(path, str) and (path.startswith("embedded:") or Path(path).suffix.lower() in _FILES)
