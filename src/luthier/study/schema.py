# SPDX-License-Identifier: Apache-2.0
"""A study: variants of one base recipe, on the same examples, over several seeds.

    base:      recipes/sft-lora.yaml            a recipe's path, or the recipe itself
    variants:  {r16: {method.r: 16}, full: {method: full}}
    axes:      {optim.learning_rate: [3e-4, 1e-3]}     a grid; with variants, each of them at each point
    seeds:     [0, 1, 2]
    budget:    {scored_tokens: 100000}          what every run may use
    evaluate:  [embedded]                       suites: names, JSONL or YAML files, {perplexity: book.txt} ...
    baseline:  r16
    output_dir: runs/my-study

Paths are relative to the folder that the command runs in, and `embedded:train` is a shipped set, as in recipes.
A study that was loaded is whole: axes are variants, and what is tuned beside its variant is a variant too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import yaml
from pydantic import BeforeValidator, Field, ValidationError

from luthier.core.errors import RecipeError
from luthier.core.shipped import shipped_set
from luthier.recipe.fingerprint import flat
from luthier.recipe.schema import Positive, Section
from luthier.recipe.text import parse, read_yaml, said
from luthier.recipe.told import told
from luthier.study.axes import NAME, expand
from luthier.study.checks import check_keys, check_study
from luthier.study.sections import Budget, Claim, Seeds, Tune, several

if TYPE_CHECKING:
    from collections.abc import Sequence

BASE = "base"  # the row of the model before training
START = "start"  # the folder of the run that comes before all others


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
    start: dict[str, Any] | None = None
    """A recipe that is trained first, once, in full; its result is the model of `base`, which then names none."""
    variants: dict[str, Variant] = Field(default_factory=dict)
    """Name -> what differs from `base`: a tree, dotted keys, or `key=value` words; empty for `base` as it is."""
    axes: dict[str, Any] = Field(default_factory=dict)
    """Recipe key -> values (or name -> value): a grid, whose points are variants, or cross those that are named."""
    seeds: Seeds = (0,)
    """Each variant runs once with each seed: initialisation and order of the examples."""
    budget: Budget | None = None
    """What every run may use, in place of the recipes' steps and epochs: `{scored_tokens: 100000}`."""
    tune: Tune | None = None
    """Keys whose value is chosen for each variant, on a suite that is not reported."""
    evaluate: Annotated[tuple[str | dict[str, Any], ...], BeforeValidator(several), Field(min_length=1)]
    """Suites: names, files of rows, YAML files or what these hold; the first one is what the table is about."""
    items: Positive | None = None
    """Only the first so many items of each suite: quicker, and noisier."""
    baseline: str | None = None
    """The variant that differences are taken against (or `base`, the model before training); default the first."""
    include_base: bool = True
    """Score the model before training too, as the row `base`; left out by itself where it has no trained head."""
    claims: tuple[Claim, ...] = ()
    """What the study is to test: `{better: A, than: B}`, `{no_difference: [A, B]}`, `{at_least: A, as: B}`."""
    jobs: Positive = 1
    """At most so many runs at a time, each in a process of its own; never more than cores, and one on a GPU."""
    together: bool = True
    """Runs that leave their base as it is share one copy of it, and small steps are done side by side."""
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

    @property
    def rows(self) -> list[str]:
        """Everything that has a row in the table: `base` where it is scored, then the variants."""
        return [BASE, *self.variants] if self.include_base else list(self.variants)

    def tree(self) -> dict[str, Any]:
        """The study as plain data, as a file holds it."""
        return self.model_dump(mode="json", exclude_unset=True, by_alias=True)


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
    tree = source.tree() if isinstance(source, Study) else dict(source) if isinstance(source, dict) else None
    tree = read_yaml(str(source)) if tree is None else tree
    tree = _opened(tree)
    for word in overrides:
        key, value = _word(word)
        tree = _opened(_put(tree, _path(key), value, key))
    _check_shipped(tree)
    return _whole(_checked(tree))


def _opened(tree: dict[str, Any]) -> dict[str, Any]:
    """Put recipes in the place of their paths."""
    paths = {name: tree[name] for name in ("base", "start") if isinstance(tree.get(name), str | Path)}
    return tree | {name: read_yaml(Path(path).expanduser()) for name, path in paths.items()}


def _whole(study: Study) -> Study:
    """Make variants of axes and of what is tuned beside its variant, put the first run's model into the base, check."""
    if not study.variants and not study.axes:
        raise RecipeError("study variants", "missing, and no axes", "what is compared", "add variants:, axes: or both")
    check_keys(study.axes, "study axes")
    changes: dict[str, Any] = {"variants": expand(study.variants, study.axes), "axes": {}}
    if study.axis is None and study.axes:
        changes["axis"] = next(iter(study.axes))
    if study.start is not None:
        changes["base"] = _started(study)
    study = study.model_copy(update=changes)
    check_study(study, BASE, NAME)
    return _beside(study) if study.tune and study.tune.beside else study


def _started(study: Study) -> dict[str, Any]:
    model = dict(study.base.get("model") or {})
    place = str(Path(study.output_dir) / START / "model")
    if model.get("model_name_or_path", place) != place:
        received = f"{model['model_name_or_path']!r}, and `start` as well"
        allowed = "one of them: what start leaves is the base's model"
        raise RecipeError("study base.model.model_name_or_path", received, allowed, "remove one")
    return {**study.base, "model": {**model, "model_name_or_path": place}}


def _beside(study: Study) -> Study:
    """Add `NAME-tuned` for each variant that is tuned, in its place behind it."""
    assert study.tune is not None
    chosen = study.tune.variants or tuple(study.variants)
    variants: dict[str, Variant] = {}
    for name, tree in study.variants.items():
        variants |= {name: tree, f"{name}-tuned": tree} if name in chosen else {name: tree}
    tune = study.tune.model_copy(update={"beside": False, "variants": tuple(f"{name}-tuned" for name in chosen)})
    return study.model_copy(update={"variants": variants, "tune": tune})


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


def _path(key: str) -> list[str]:
    """Where a word's value goes: the keys of a grid are dotted themselves."""
    path = key.split(".")
    whole = 1 if path[0] == "axes" else 2 if path[:2] == ["tune", "keys"] else None
    return path if whole is None or len(path) <= whole else [*path[:whole], ".".join(path[whole:])]


def _check_shipped(value: Any) -> None:
    """Refuse names of shipped sets that are none, wherever they stand, before anything is read."""
    if isinstance(value, dict | list | tuple):
        for below in value.values() if isinstance(value, dict) else value:
            _check_shipped(below)
    elif isinstance(value, str):
        shipped_set(value)


def _checked(tree: dict[str, Any]) -> Study:
    try:
        return Study.model_validate_json(json.dumps(tree, default=str))
    except ValidationError as failed:
        error = told(failed.errors(include_url=False), Study, tree, "")
        raise RecipeError(f"study {error.where}", error.received, error.allowed, error.fix) from None
