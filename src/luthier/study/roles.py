# SPDX-License-Identifier: Apache-2.0
"""What each variant of a study is: its method in people's words, and its place in the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luthier.recipe.fingerprint import flat
from luthier.study.rows import plain
from luthier.study.said import said
from luthier.study.schema import BASE

if TYPE_CHECKING:
    from luthier.study.design import Design
    from luthier.study.results import StudyResult

_NAMES = {"lora": "LoRA", "full": "full", "bitfit": "BitFit", "ia3": "(IA)³", "adapter": "adapters"}
_NAMES |= {"lora_fa": "LoRA-FA", "vera": "VeRA", "loha": "LoHa", "lokr": "LoKr", "llama_adapter": "LLaMA-Adapter"}


@dataclass(frozen=True, kw_only=True)
class Role:
    """A variant's part.

    Attributes:
        variant: Its name.
        method: `LoRA`, `rsLoRA`, `DoRA`, `full` or another method's name.
        r: Its rank, where it has one.
        rate: Its learning rate.
        place: Its value of the study's axis, where it has one.
        tuned: Whether the study chose keys for it.
    """

    variant: str
    method: str
    r: int | None
    rate: float
    place: Any = None
    tuned: bool = False

    @property
    def label(self) -> str:
        """`rsLoRA r=16`."""
        return self.method if self.r is None else f"{self.method} r={self.r}"

    @property
    def spot(self) -> str:
        """Where it stands on the axis: a number as a word, or its label where the axis means nothing to it."""
        if self.place is None:
            return self.label
        return f"{self.place:g}" if _is_number(self.place) else str(self.place)


def roles(plan: Design) -> dict[str, Role]:
    """The part of every variant."""
    found = {}
    for run in plan.runs:
        recipe = run.resolved.recipe
        name = str(recipe.method["name"])
        plain = "rsLoRA" if recipe.method.get("use_rslora") else _NAMES.get(name, name)
        method = "DoRA" if recipe.method.get("use_dora") else plain
        place = flat(recipe.model_dump(mode="json")).get(plan.study.axis) if plan.study.axis else None
        if plan.study.axis == "data.train" and isinstance(place, list):
            place = sum(source["max_rows"] or 0 for source in place) or None  # rows: what a data curve is about
        found[run.variant] = Role(
            variant=run.variant,
            method=method,
            r=recipe.method.get("r"),
            rate=recipe.optim.learning_rate,
            place=place,
            tuned=run.variant in plan.tuned,
        )
    return found


def condition(plan: Design) -> str:
    """`at the same alpha (16) and learning rate (0.001)`, or which of the two differ besides the study's axis."""
    alpha, rate = plan.common("method.lora_alpha"), plan.common("optim.learning_rate")
    has_alpha = any("lora_alpha" in run.resolved.recipe.method for run in plan.runs)
    same = [said("alpha", value=f"{alpha:g}")] if alpha is not None else []
    same += [said("rate", value=f"{rate:g}")] if rate is not None else []
    other = [said("another_alpha")] if has_alpha and alpha is None else []
    other += [said("another_rate")] if rate is None and plan.study.axis != "optim.learning_rate" else []
    if same and other:
        return said("condition_both", same=same, other=other)
    if same:
        return said("condition_same", same=same)
    return said("condition_other", other=other) if other else ""


def picture(result: StudyResult) -> dict[str, Any]:
    """What the picture shows, as plain data: title, subtitle, axis, points."""
    known, axis = roles(result.design), result.design.study.axis
    groups = _groups(known)
    points = []
    for row in result.rows():
        role = known.get(row.variant)
        points.append(
            {
                "variant": row.variant,
                "group": "before training" if role is None else groups[row.variant],
                "x": BASE if role is None else role.spot,
                "score": plain(row.score.value),
                "stderr": plain(row.score.stderr),
                "low": plain(row.score.low),
                "high": plain(row.score.high),
            }
        )
    spots = [(point["x"], point["group"]) for point in points]
    on_axis = axis is not None and len(set(spots)) == len(spots)  # two variants in one spot would hide each other
    numbers = sorted({float(role.place) for role in known.values() if _is_number(role.place)})
    ordered = [BASE, *(f"{number:g}" for number in numbers)]
    places = ordered + [point["x"] for point in points if point["x"] not in ordered]
    study, items = result.design.study, result.suites[result.suite]
    seeds = "one seed" if len(study.seeds) == 1 else f"{len(study.seeds)} seeds"
    return {
        "title": ", ".join(filter(None, (study.title, condition(result.design)))),
        "subtitle": f"Suite {result.suite}, {items} items, {seeds}; bars: 95 % intervals",
        "x_label": _AXES.get(str(axis), str(axis)) if on_axis else "",
        "places": list(dict.fromkeys(places)),
        "points": points,
    }


_AXES = {
    "method.r": "rank r",
    "optim.learning_rate": "learning rate",
    "data.train": "training examples",
    "train.max_steps": "steps",
}


def _groups(known: dict[str, Role]) -> dict[str, str]:
    """Methods are groups; a rank is named where a method has several at one place, tuning where not all are tuned."""
    spots = [(role.method, role.place, role.tuned) for role in known.values()]
    crowded = {method for method, place, tuned in spots if spots.count((method, place, tuned)) > 1}
    mixed = len({role.tuned for role in known.values()}) > 1
    return {
        name: (role.label if role.method in crowded else role.method) + (", tuned" if mixed and role.tuned else "")
        for name, role in known.items()
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
