# SPDX-License-Identifier: Apache-2.0
"""All rules in turn: facts -> advised values, the recipe that they make, and where another recipe differs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luthier.advise.choice import choose
from luthier.advise.fit import fits
from luthier.advise.rules import ORDER
from luthier.advise.sources import SOURCES
from luthier.advise.steps import step_size, total_steps
from luthier.planning.free import size
from luthier.recipe import load_recipe
from luthier.recipe.text import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from luthier.advise.choice import Choice
    from luthier.advise.facts import Facts
    from luthier.advise.value import Advice
    from luthier.recipe import Recipe

SECTIONS = ("model", "data", "method", "objective", "optim", "train")
# What goes before another key, or cannot stand beside it -> that key.
OVERRULE = {
    "train.max_steps": "train.num_train_epochs",
    "optim.warmup_steps": "optim.warmup_ratio",
    "data.max_prompt_length": "data.max_length",
}
SHORTER = (512, 1024, 2048, 4096)


@dataclass(frozen=True, kw_only=True)
class Advised:
    """What is advised.

    Attributes:
        facts: What it was drawn from.
        rows: A row each key, in a recipe's order.
        choice: Method and micro-batch, with what they need.
        notes: What must be said besides, a line each.
    """

    facts: Facts
    rows: tuple[Advice, ...]
    choice: Choice
    notes: tuple[str, ...]

    @property
    def values(self) -> dict[str, Any]:
        """Dotted key -> value."""
        return {row.key: row.value for row in self.rows}

    def tree(self, base: Mapping[str, Any]) -> dict[str, Any]:
        """The recipe that comes of it.

        Args:
            base: A recipe's tree: its model, rows, folder and whatever no rule speaks of stay.

        Raises:
            RecipeError: The two do not go together.
        """
        tree = {key: dict(value) if isinstance(value, dict) else value for key, value in base.items()}
        values = {key: value for key, value in self.values.items() if not _held(tree, key)}
        for kind in ("method", "objective"):
            if f"{kind}.name" in values and tree.get(kind, {}).get("name") != values[f"{kind}.name"]:
                tree[kind] = {"name": values[f"{kind}.name"]}
        for key, value in values.items():
            section, _, name = key.partition(".")
            tree.setdefault(section, {})[name] = value
        for key in self.left_out(tree):
            section, _, name = key.partition(".")
            del tree[section][name]
        load_recipe(tree)
        return tree

    def left_out(self, base: Mapping[str, Any]) -> dict[str, str]:
        """Keys of a recipe that would overrule what is advised -> what they overrule."""
        found = {}
        for key, other in OVERRULE.items():
            section, _, name = key.partition(".")
            own = base.get(section, {}).get(name)
            limit = self.values["data.max_length"] if key == "data.max_prompt_length" else 1
            if own is not None and own >= limit:
                found[key] = other
        return found

    def remarks(self, recipe: Recipe) -> list[str]:
        """What must be said about a recipe beside the advice."""
        given = recipe.model_dump(mode="json")
        found = [
            f"{key} is left out of what is written: it overrules {other}" for key, other in self.left_out(given).items()
        ]
        if recipe.model.adapter_name_or_path:
            found.append("the recipe goes on from an adapter, so its method stays as it is in what is written")
        elif recipe.method["name"] != self.values["method.name"]:
            own, other = recipe.method["name"], self.values["method.name"]
            found.append(f"the rate and the rest are for {other}; for the recipe's own method: --method {own}")
        return found

    def differences(self, recipe: Recipe) -> dict[str, tuple[Any, bool]]:
        """Each advised key -> the recipe's own value (None where it has no such key), and whether that is as good."""
        given = recipe.model_dump(mode="json")
        found = {}
        for row in self.rows:
            section, _, name = row.key.partition(".")
            own = given[section].get(name)
            found[row.key] = (own, row.agrees(own))
        return found


def _held(tree: Mapping[str, Any], key: str) -> bool:
    """Whether a recipe cannot do otherwise: an adapter that goes on training brings its method's keys."""
    return key.startswith("method.") and tree.get("model", {}).get("adapter_name_or_path") is not None


def advise(facts: Facts) -> Advised:
    """Ask every rule in turn.

    Args:
        facts: Model, rows, machine; see :func:`luthier.advise.look.gather`.
    """
    chosen: dict[str, Any] = {}
    rows: list[Advice] = []
    for group in ORDER:
        found = group.advise(facts, chosen)
        rows += found
        chosen |= {row.key: row.value for row in found}
    choice = choose(facts, chosen["data.max_length"], step_size(facts, chosen["data.max_length"]))
    rows.sort(key=lambda row: SECTIONS.index(row.key.partition(".")[0]))
    return Advised(facts=facts, rows=tuple(rows), choice=choice, notes=tuple(_notes(facts, choice)))


def _notes(facts: Facts, choice: Choice) -> list[str]:
    """What does not belong to one key."""
    notes = []
    if not choice.fit.ok:
        notes.append(f"does not fit: {choice.fit}. {_ways_out(facts, choice)}")
    data = facts.data
    if data is None:
        notes.append("no rows were named (--data FILE): what depends on them is a guess")
    elif data.sampled < data.rows:
        about = "about " if data.estimated else ""
        notes.append(f"lengths are those of the first {data.sampled:,} of {about}{data.rows:,} rows")
    if facts.model.counted == "formula":
        notes.append(
            "activations are a formula's (arXiv 2205.05198): the model's layers did not run by themselves with LoRA; "
            "`luthier train --dry-run` tells whether it trains here at all"
        )
    if choice.fit.ok and facts.machine.told == "--memory":
        notes.append("memory is an estimate for one process alone; the run measures again before it starts")
    if facts.data and total_steps(facts, choice.ask.max_length, 1) < 8:
        notes.append("there are so few rows that a run has a handful of steps: expect little, or add rows")
    return notes


def _ways_out(facts: Facts, choice: Choice) -> str:
    """The cheapest ways to make it fit."""
    ways = []
    for length in reversed(SHORTER):
        if length < choice.ask.max_length and fits(facts, _with(choice, max_length=length)).ok:
            ways.append(f"data.max_length={length}")
            break
    if choice.ask.quantization == "none" and choice.ask.method == "lora":
        needed = size(fits(facts, _with(choice, quantization="nf4")).total)
        offered = "nf4" in facts.machine.quantizations
        ways.append(f"a base in NF4 would need {needed}" + ("" if offered else ", which this version does not offer"))
    ways += ["a smaller model", "more memory"]
    return f"What would help: {'; '.join(ways)}"


def _with(choice: Choice, **changed: Any) -> Any:
    return type(choice.ask)(**{**choice.ask.__dict__, **changed})


def to_yaml(tree: Mapping[str, Any], advised: Advised, head: str) -> str:
    """Write a recipe; behind each advised value stands who says so and how sure it is.

    Args:
        tree: From :meth:`Advised.tree`.
        advised: Whose rows are told.
        head: The first line, a comment; what must be said besides follows it.
    """
    told = {row.key: f"{', '.join(SOURCES[name].name for name in row.sources)}: {row.sure}" for row in advised.rows}
    lines = [f"# {line}" for line in (head, *advised.notes)]
    for section in (*SECTIONS, "seed", "output_dir"):
        if section not in tree:
            continue
        value = tree[section]
        if not isinstance(value, dict):
            lines.append(f"{section}: {one_line(value)}")
            continue
        lines.append(f"{section}:")
        for key, inner in value.items():
            why = told.get(f"{section}.{key}")
            lines.append(f"  {one_line(key)}: {one_line(inner)}" + (f"  # {why}" if why else ""))
    return "\n".join(lines) + "\n"
