# SPDX-License-Identifier: Apache-2.0
"""A study: variants of one base recipe, on the same examples, over several seeds.

    base:      recipes/sft-lora.yaml            a recipe's path, or the recipe itself
    variants:  {r16: {method.r: 16}, full: {method: full}}
    seeds:     [0, 1, 2]
    evaluate:  [embedded-dev]                   names of suites, or JSONL files
    baseline:  r16
    output_dir: runs/my-study

Paths are relative to the folder that the command runs in, and `embedded:train` is a shipped set, as in recipes.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import yaml
from pydantic import BeforeValidator, Field, ValidationError

from luthier.core.errors import RecipeError, did_you_mean
from luthier.core.shipped import shipped_set
from luthier.recipe.fingerprint import flat
from luthier.recipe.schema import NonNegative, Positive, Section
from luthier.recipe.text import parse, read_yaml, said
from luthier.recipe.told import told

if TYPE_CHECKING:
    from collections.abc import Sequence

BASE = "base"  # the row of the model before training
_NAME = re.compile(r"[A-Za-z0-9][\w.+=-]*")


def _several(value: Any) -> Any:
    """Accept one value for a list of one."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _variant(value: Any) -> Any:
    """Accept `key=value` words and nothing at all for a tree."""
    if not isinstance(value, list):
        return {} if value is None else value
    return dict(_word(word) for word in value)


Variant = Annotated[dict[str, Any], BeforeValidator(_variant)]


class Study(Section):
    """Which runs, on what they are scored, and what they are compared with."""

    base: dict[str, Any]
    """The recipe that every variant starts from: a path, or the recipe itself."""
    variants: Annotated[dict[str, Variant], Field(min_length=1)]
    """Name -> what differs from `base`: a tree, dotted keys, or `key=value` words; empty for `base` as it is."""
    seeds: Annotated[tuple[NonNegative, ...], BeforeValidator(_several), Field(min_length=1)] = (0,)
    """Each variant runs once with each seed: initialisation and order of the examples."""
    evaluate: Annotated[tuple[str, ...], BeforeValidator(_several), Field(min_length=1)]
    """Suites by name or JSONL file; the first one is what the table is about."""
    items: Positive | None = None
    """Only the first so many items of each suite: quicker, and noisier."""
    baseline: str | None = None
    """The variant that differences are taken against (or `base`, the model before training); default the first."""
    include_base: bool = True
    """Score the model before training too, as the row `base`."""
    jobs: Positive = 1
    """At most so many runs at a time, each in a process of its own; never more than cores, and one on a GPU."""
    axis: str | None = None
    """The recipe key on the picture's horizontal axis, such as `method.r`; without one each variant has a line."""
    title: str = "Comparison"
    """Heading of the report."""
    output_dir: str
    """Where everything is written."""

    @property
    def against(self) -> str:
        """The variant that differences are taken against."""
        return self.baseline or next(iter(self.variants))


def load_study(source: str | Path | dict[str, Any] | Study, overrides: Sequence[str] = ()) -> Study:
    """Read a study and check it.

    Args:
        source: A YAML file, the same tree in Python, or a study.
        overrides: Words such as `seeds=[0,1]` or `base.train.max_steps=5`.

    Raises:
        RecipeError: The file is missing or broken, a key is unknown, or a value does not fit.

    Example:
        >>> recipe = {"model": {"model_name_or_path": "embedded"}, "data": {"train": "embedded:train"}}
        >>> tree = {"base": recipe, "variants": {"r4": {"method.r": 4}}, "evaluate": "embedded", "output_dir": "runs/x"}
        >>> load_study(tree, ["seeds=[0, 1]"]).seeds
        (0, 1)
    """
    if isinstance(source, Study):
        tree = source.model_dump(mode="json", exclude_unset=True)
    else:
        tree = dict(source) if isinstance(source, dict) else read_yaml(source)
    if isinstance(tree.get("base"), str | Path):
        tree["base"] = read_yaml(Path(tree["base"]).expanduser())
    for word in overrides:
        key, value = _word(word)
        tree = _put(tree, key.split("."), value, key)
    study = _checked(_shipped(tree))
    _check_names(study)
    return study


def words_of(tree: dict[str, Any]) -> tuple[str, ...]:
    """Turn a variant's tree into the recipe's own `key=value` words (JSON is YAML).

    Example:
        >>> words_of({"method": {"r": 4}, "optim.learning_rate": 0.001})
        ('method.r=4', 'optim.learning_rate=0.001')
    """
    return tuple(f"{key}={json.dumps(value)}" for key, value in flat(tree).items() if key)


def _word(word: Any) -> tuple[str, Any]:
    key, sign, value = str(word).partition("=")
    if not sign or not key:
        raise RecipeError(f"study word {word!r}", "no '='", "key=value, as in base.train.max_steps=50")
    try:
        return key, parse(value)
    except yaml.YAMLError:
        return key, value


def _put(tree: dict[str, Any], path: list[str], value: Any, key: str) -> dict[str, Any]:
    head, rest = path[0], path[1:]
    if not rest:
        return tree | {head: value}
    below = tree.get(head)
    if isinstance(below, str) and head in ("method", "objective"):
        below = {"name": below}
    if not isinstance(below, dict | None):
        raise RecipeError(f"study word {key}", f"{head!r} holds {said(below)}", fix="override the whole key instead")
    return tree | {head: _put(below or {}, rest, value, key)}


def _shipped(value: Any) -> Any:
    """Replace `embedded:train` by the path of that shipped set, wherever it stands."""
    if isinstance(value, dict):
        return {key: _shipped(below) for key, below in value.items()}
    if isinstance(value, list | tuple):
        return [_shipped(below) for below in value]
    return str(shipped_set(value) or value) if isinstance(value, str) else value


def _checked(tree: dict[str, Any]) -> Study:
    try:
        return Study.model_validate_json(json.dumps(tree, default=str))
    except ValidationError as failed:
        error = told(failed.errors(include_url=False), Study, tree, "")
        raise RecipeError(f"study {error.where}", error.received, error.allowed, error.fix) from None


def _check_names(study: Study) -> None:
    for name, tree in study.variants.items():
        where = f"study variants.{name}"
        if not _NAME.fullmatch(name) or name == BASE:
            allowed = f"letters, digits and . _ + = -, and not {BASE!r}: each variant is a folder"
            raise RecipeError(where, f"name {name!r}", allowed)
        for key in sorted({key.split(".")[0] for key in tree} & {"seed", "output_dir"}):
            raise RecipeError(where, f"{key!r} of a variant", "the study sets seeds and folders", "remove it")
    if len(set(study.seeds)) != len(study.seeds):
        raise RecipeError("study seeds", f"received {list(study.seeds)}", "each seed once")
    rows = [BASE, *study.variants] if study.include_base else list(study.variants)
    if study.against not in rows:
        raise RecipeError("study baseline", f"unknown variant {study.against!r}", did_you_mean(study.against, rows))
