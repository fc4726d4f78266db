# SPDX-License-Identifier: Apache-2.0
"""A study's folder, or one run's, as the page needs it: what study.json says, and what the runs say where it is silent.

study.json is written at the end, with the study's own statistics. Before that, and for studies from before there was
such a file, `fill` works scores and differences out from the runs' predictions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from luthier.core.errors import UserError
from luthier.web.fill import BASE, categories_of, forgetting_of, rows_of
from luthier.web.runs import Seen, read_json, read_run, read_yaml

_NAMES = {"lora": "LoRA", "full": "full", "bitfit": "BitFit", "ia3": "(IA)³", "adapter": "adapters"}
_NAMES |= {"lora_fa": "LoRA-FA", "vera": "VeRA", "loha": "LoHa", "lokr": "LoKr", "llama_adapter": "LLaMA-Adapter"}
KINDS = 6  # groups that can be told apart by colour and shape
_NOT_COMPARED = ("seed", "output_dir")
Line = str | dict[str, Any]  # a sentence of study.json: {key, values, text}; a bare text of older ones


@dataclass(frozen=True, kw_only=True)
class Found:
    """Everything a page shows.

    Attributes:
        folder: Where it was read from.
        title: Of the study, or the run's name.
        alone: One run and no study.
        whole: Its study.json holds all runs that are done, so its statistics are the study's own.
        suites: Suite -> items; the first one is what the table is about.
        seeds: As asked for.
        baseline: What differences are taken against; "" for a run alone.
        controlled: What was held equal, in a sentence; empty where nothing is said.
        said: The conclusion in the study's own sentences.
        differing: Recipe key -> variant -> value.
        rows: Suite -> rows of the table.
        categories: Suite -> category -> variant -> {value, low, high, items}.
        forgetting: Variant -> category -> {before, after, delta, low, high}.
        claims: As the study file made them, with what became of them.
        smallest: Suite -> the smallest difference that the study could have seen.
        notes: How the numbers were made, in sentences.
        runs: In the order of the plan.
        early: Runs that came before them: of a model to start from, and those that choose what is tuned.
    """

    folder: Path
    title: str
    alone: bool
    whole: bool = False
    suites: dict[str, int] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    baseline: str = ""
    controlled: tuple[Line, ...] = ()
    said: tuple[Line, ...] = ()
    differing: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    categories: dict[str, dict[str, dict[str, dict[str, Any]]]] = field(default_factory=dict)
    forgetting: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    claims: list[dict[str, Any]] = field(default_factory=list)
    smallest: dict[str, float] = field(default_factory=dict)
    notes: tuple[Line, ...] = ()
    runs: tuple[Seen, ...] = ()
    early: tuple[Seen, ...] = ()

    @property
    def suite(self) -> str:
        """The suite that the table is about."""
        return next(iter(self.suites), "")

    @property
    def trained(self) -> list[Seen]:
        """Its runs without the model before training."""
        return [run for run in self.runs if run.variant != BASE or self.alone]

    @property
    def variants(self) -> list[str]:
        """Variants that train, in order."""
        return list(dict.fromkeys(run.variant for run in self.trained))

    def family(self, variant: str) -> str:
        """The method of a variant in people's words."""
        recipe = next((run.recipe for run in self.runs if run.variant == variant and run.recipe), {})
        name = str(recipe.get("method.name") or recipe.get("method") or "")
        if recipe.get("method.use_dora"):
            return "DoRA"
        return "rsLoRA" if recipe.get("method.use_rslora") else _NAMES.get(name, name)

    def groups(self) -> dict[str, str]:
        """Variant -> what it shares with those that differ from it in rank alone: `LoRA`, `LoRA tuned`.

        Names tell: without its rank, `lora-r16-tuned` is `lora-tuned`. Where that makes more groups than there are
        colours, or where no ranks differ, the method is the group.
        """
        families = {variant: self.family(variant) for variant in self.variants}
        ranks = {variant: rank for variant in families if (rank := self.rank(variant)) is not None}
        made = dict(families)
        for family in set(families.values()):
            mine = {v: _words(v, rank) for v, rank in ranks.items() if families[v] == family}
            for variant, words in mine.items():
                rest = [word for word in words if not all(word in others for others in mine.values())]
                made[variant] = " ".join([family, *rest])
        return made if len(set(made.values())) <= KINDS and len(set(ranks.values())) > 1 else families

    def rank(self, variant: str) -> float | None:
        """The rank of a variant, where its method has one."""
        found = next((run.of("method.r") for run in self.runs if run.variant == variant and run.recipe), None)
        return float(found) if isinstance(found, int | float) and found > 0 else None


def _words(variant: str, rank: float) -> list[str]:
    """The words of a variant's name without the one that is its rank: `r16`, `16`, or `rs16` without its number."""
    bare = re.sub(rf"(?<!\d){rank:g}(?!\d)", "", variant, count=1)
    return [word for word in re.split(r"[-_.+=]", bare) if word not in ("", "r")]


def gather(folder: Path) -> Found:
    """Read a study's folder or a run's.

    Raises:
        UserError: It is neither.
    """
    if (folder / "recipe.yaml").exists():
        run = read_run(folder, folder.name, read_yaml(folder / "recipe.yaml").get("seed"))
        return Found(folder=folder, title=folder.name, alone=True, runs=(run,))
    told = read_json(folder / "study.json")
    told = told if isinstance(told, dict) else {}
    plan = read_yaml(folder / "study.yaml")
    if not (told or plan or (folder / "runs").is_dir()):
        what = "neither study.yaml nor recipe.yaml" if folder.is_dir() else "no such folder"
        raise UserError(str(folder), what, "the folder of a study or of one run", "give the output_dir of one")
    results = read_json(folder / "results.json")
    runs = _runs(folder, plan, results if isinstance(results, list) else [])
    whole = _holds(told, runs)
    suites = told.get("suites") if whole else None
    return _filled(folder, told if whole else {}, plan, runs, suites or _suites(runs, plan))


def _filled(
    folder: Path, told: dict[str, Any], plan: dict[str, Any], runs: tuple[Seen, ...], suites: dict[str, int]
) -> Found:
    variants = list(dict.fromkeys(run.variant for run in runs))
    first = next((variant for variant in variants if variant != BASE), BASE)
    baseline = str(told.get("baseline") or plan.get("baseline") or first)
    rows = {suite: list((told.get("rows") or {}).get(suite) or rows_of(runs, suite, baseline)) for suite in suites}
    made = {suite: (told.get("categories") or {}).get(suite) or categories_of(runs, suite) for suite in suites}
    main = next(iter(suites), "")
    return Found(
        folder=folder,
        title=str(told.get("title") or plan.get("title") or folder.name),
        alone=False,
        whole=bool(told),
        suites=suites,
        seeds=tuple(
            told.get("seeds") or plan.get("seeds") or sorted({run.seed for run in runs if run.seed is not None})
        ),
        baseline=baseline,
        controlled=_lines(told.get("controlled")),
        said=_lines(told.get("verdict") or told.get("conclusion")),
        differing=told.get("differing") or _differing(runs),
        rows=rows,
        categories={suite: found for suite, found in made.items() if found},
        forgetting=told.get("forgetting") or forgetting_of(runs, main),
        claims=[claim for claim in told.get("claims") or () if isinstance(claim, dict)],
        smallest=told.get("smallest") or {},
        notes=_lines(told.get("notes") or told.get("method_notes")),
        runs=runs,
        early=_early(folder),
    )


def _lines(given: Any) -> tuple[Line, ...]:
    """Sentences, one or several."""
    several = given if isinstance(given, list) else [given] if given else []
    return tuple(line if isinstance(line, dict) else str(line) for line in several)


def _early(folder: Path) -> tuple[Seen, ...]:
    """Runs in `start/` and of the study in `tuning/`, named by these words."""
    start, tuning = folder / "start", folder / "tuning"
    found = [read_run(start, start.name, None)] if (start / "recipe.yaml").exists() else []
    inner = _runs(tuning, read_yaml(tuning / "study.yaml"), []) if tuning.is_dir() else ()
    return (*found, *(replace(run, variant=f"{tuning.name}/{run.variant}") for run in inner if run.variant != BASE))


def _runs(folder: Path, plan: dict[str, Any], results: list[dict[str, Any]]) -> tuple[Seen, ...]:
    """The planned runs and, after them, those that only the folder has."""
    told = {(run.get("variant"), run.get("seed")): run for run in results if isinstance(run, dict)}
    wanted: dict[tuple[str, int | None], Path] = {}
    if (folder / "runs" / BASE).is_dir() or plan.get("include_base"):
        wanted[BASE, None] = folder / "runs" / BASE
    seeds = [seed for seed in plan.get("seeds") or () if isinstance(seed, int)]
    for variant in plan.get("variants") or {}:
        wanted |= {(str(variant), seed): folder / "runs" / str(variant) / f"seed-{seed}" for seed in seeds}
    for path in sorted(folder.glob("runs/*/seed-*")):
        seed = path.name.removeprefix("seed-")
        if seed.isdigit():
            wanted.setdefault((path.parent.name, int(seed)), path)
    return tuple(read_run(path, *key, told.get(key, {})) for key, path in wanted.items())


def _holds(told: dict[str, Any], runs: tuple[Seen, ...]) -> bool:
    """Whether study.json knows every run that is done now, as it is now."""
    known = {(run.get("variant"), run.get("seed")): run for run in told.get("runs") or () if isinstance(run, dict)}
    for run in runs:
        if run.state == "done" and run.summary.get("evaluation"):
            entry = known.get((run.variant, run.seed))
            if entry is None or entry.get("fingerprint") != run.summary.get("fingerprint"):
                return False
    return bool(known)


def _suites(runs: tuple[Seen, ...], plan: dict[str, Any]) -> dict[str, int]:
    """From what the runs were asked, in the order of the study file as far as the names tell."""
    found: dict[str, int] = {}
    for run in runs:
        for name, scored in (run.summary.get("evaluation") or {}).items():
            if "items" in scored:
                found.setdefault(name, int(scored["items"]))
    asked = [Path(str(name)).stem for name in plan.get("evaluate") or ()]
    place = {name: min((n for n, a in enumerate(asked) if name.startswith(a)), default=len(asked)) for name in found}
    for name in found:
        place[name] = asked.index(name) if name in asked else place[name]
    return {name: found[name] for name in sorted(found, key=lambda name: place[name])}


def _differing(runs: tuple[Seen, ...]) -> dict[str, dict[str, Any]]:
    """Keys of the recipes whose values are not the same in all variants."""
    trees: dict[str, dict[str, Any]] = {}
    for run in runs:
        if run.recipe:
            trees.setdefault(run.variant, run.recipe)
    keys = dict.fromkeys(key for tree in trees.values() for key in tree if key not in _NOT_COMPARED)
    found = {key: {name: tree.get(key) for name, tree in trees.items()} for key in keys}
    return {key: values for key, values in found.items() if len(set(map(str, values.values()))) > 1}
