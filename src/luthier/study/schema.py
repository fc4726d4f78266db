# SPDX-License-Identifier: Apache-2.0
"""A study: variants of one base recipe, on the same examples, over several seeds.

    base:      recipes/sft-lora.yaml            a recipe's path, or the recipe itself
    variants:  {r16: {method.r: 16}, full: {method: full}}
    seeds:     [0, 1, 2]
    evaluate:  [embedded-dev]                   names of suites, or JSONL files
    baseline:  r16
    output_dir: runs/my-study
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError

from luthier.core.errors import RecipeError, did_you_mean
from luthier.evaluate.suite import sets_folder
from luthier.recipe.fingerprint import flat
from luthier.recipe.load import read_yaml
from luthier.recipe.schema import NonNegative, Positive, Section

if TYPE_CHECKING:
    from collections.abc import Sequence

BASE = "base"  # the row of the model before training
_SHIPPED = "embedded:"  # `embedded:train` as a data path names a shipped set


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else (value,) if isinstance(value, str | int) else value


def _tree(value: Any) -> Any:
    """Accept `key=value` words, dotted keys and nested trees; give dotted keys back."""
    if value is None:
        return {}
    if isinstance(value, list):
        return dict(_word(word) for word in value)
    return value


def _word(word: Any) -> tuple[str, Any]:
    key, sign, value = str(word).partition("=")
    if not sign or not key:
        raise ValueError(f"{word!r} is no key=value word")
    return key, parse_value(value)


Variant = Annotated[dict[str, Any], BeforeValidator(_tree)]


class Study(Section):
    """Which runs, on what they are scored, and what they are compared with."""

    base: dict[str, Any]
    """The recipe that every variant starts from: a path, or the recipe itself."""
    variants: Annotated[dict[str, Variant], Field(min_length=1)]
    """Name -> what differs from `base`: a tree, dotted keys, or `key=value` words. Empty for the base recipe as it is."""
    seeds: Annotated[tuple[NonNegative, ...], BeforeValidator(_tuple), Field(min_length=1)] = (0,)
    """Each variant runs once with each seed: initialisation and order of the examples."""
    evaluate: Annotated[tuple[str, ...], BeforeValidator(_tuple), Field(min_length=1)]
    """Suites by name or JSONL file; the first one is what the table is about."""
    items: Positive | None = None
    """Only the first so many items of each suite: quicker, and noisier."""
    baseline: str | None = None
    """The variant that differences are taken against (or `base`, the model before training); default the first."""
    include_base: bool = True
    """Score the model before training too, as the row `base`."""
    axis: str | None = None
    """The recipe key on the picture's horizontal axis, such as `method.r`; without one each variant is a line."""
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
    """
    if isinstance(source, Study):
        tree = source.model_dump(mode="json", exclude_unset=True)
    else:
        tree = dict(source) if isinstance(source, dict) else read_yaml(source)
    if isinstance(tree.get("base"), str):
        tree["base"] = read_yaml(Path(tree["base"]).expanduser())
    for word in overrides:
        key, sign, value = word.partition("=")
        if not sign or not key:
            raise RecipeError(f"override {word!r}", "no '='", "key=value, as in base.train.max_steps=50")
        tree = _put(tree, key.split("."), parse_value(value))
    study = _checked(tree)
    _check_names(study)
    return study


def parse_value(text: str) -> Any:
    """Read the value of a `key=value` word, as recipes do: YAML, with `1e-3` a number."""
    import yaml

    from luthier.recipe.load import load_recipe

    probe = {"model": {"model_name_or_path": "-"}, "data": {"train": "-"}}
    del probe, load_recipe
    return yaml.safe_load(text)
