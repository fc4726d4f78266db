# SPDX-License-Identifier: Apache-2.0
"""How often a study's intervals hold the truth, and how often equals are called different: 4 million simulated items.

    python benchmarks/coverage.py               a few minutes on one core; the table of docs/statistics.md

A study here is two models on the same items over some seeds. A reply is right where ability + item + seed + luck > 0,
and both models have the same ability, so the true difference is 0: an interval that leaves out 0 is wrong, and so is a
verdict. The seeds' effect is given as the standard deviation of what a seed does to the difference of the scores.
"""

from __future__ import annotations

import argparse
import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from luthier.evaluate.bootstrap import bootstrap
from luthier.evaluate.significance import p_value, sign_flip
from luthier.evaluate.student import t_quantile

Table = npt.NDArray[np.float64]
SEEDS = (1, 2, 3, 5, 10)
OF_SEEDS = (0.0, 0.05, 0.15, 0.4)  # of the ability; as shares of right answers: see the column
RESAMPLES = 1_000
Z = NormalDist().inv_cdf(0.975)


def draw(random: np.random.Generator, seeds: int, items: int, of_seeds: float) -> Table:
    """Differences of two equal models [S, N]: -1, 0 or 1."""
    hard = random.normal(0, 1.2, items)
    first, second = (
        hard
        + random.normal(0, 0.5, items)
        + random.normal(0, of_seeds, (seeds, 1))
        + random.normal(0, 0.7, (seeds, items))
        for _ in range(2)
    )
    return (first > 0).astype(np.float64) - (second > 0)


def components(table: Table) -> tuple[float, float, float]:
    """Mean squares of seeds, items and the rest, each over S N: parts of the variance of the mean."""
    seeds, items = table.shape
    mean, by_seed, by_item = table.mean(), table.mean(axis=1), table.mean(axis=0)
    rest = table - by_seed[:, None] - by_item + mean
    return (
        float(((by_seed - mean) ** 2).sum()) / seeds / (seeds - 1),
        float(((by_item - mean) ** 2).sum()) / items / (items - 1),
        float((rest**2).sum()) / (seeds - 1) / (items - 1) / seeds / items,
    )


def subtracted(table: Table) -> float:
    """Half the width with var_e counted once: crossed random effects, negative components set to zero, and t."""
    (seeds, items), (of_seeds, of_items, rest) = table.shape, components(table)
    variance = max(of_seeds - rest, 0.0) + max(of_items, rest)
    parts = [(of_seeds, seeds - 1)] * (of_seeds > rest) + [(of_items, items - 1)] * (of_items > rest)
    parts += [(rest, (seeds - 1) * (items - 1))] * (len(parts) != 1)
    below = sum(part**2 / df for part, df in parts if part > 0)
    return t_quantile(0.975, variance**2 / below) * math.sqrt(variance) if below else 0.0


class Pigeonhole:
    """Owen's bootstrap: rows and columns drawn apart, weights multiplied, plain percentiles."""

    def __init__(self, seeds: int, items: int) -> None:
        random = np.random.default_rng(1)
        self._of_seeds = random.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES) / seeds
        self._of_items = random.multinomial(items, np.full(items, 1 / items), RESAMPLES) / items

    def holds(self, table: Table) -> bool:
        """Whether the interval of a table holds 0."""
        means = ((self._of_seeds @ table) * self._of_items).sum(axis=1)
        low, high = np.quantile(means, [0.025, 0.975])
        return bool(low <= 0.0 <= high)


def simulate(seeds: int, items: int, of_seeds: float, studies: int) -> dict[str, float]:
    """Shares of the studies whose interval holds the truth, and of those whose verdict is wrong."""
    random = np.random.default_rng((seeds, items, round(1000 * of_seeds)))
    pigeonhole = Pigeonhole(seeds, items)
    names = "effect ours width items pigeonhole subtracted p flip".split()
    total = dict.fromkeys(names, 0.0)
    for _ in range(studies):
        table = draw(random, seeds, items, of_seeds)
        found = bootstrap([table], limits=(-1.0, 1.0), resamples=RESAMPLES)[0]
        sums = table.sum(axis=0)
        total["ours"] += found.low <= 0.0 <= found.high
        total["width"] += (found.high - found.low) / 2.0
        total["items"] += abs(table.mean()) <= Z * table.mean(axis=0).std(ddof=1) / math.sqrt(items)
        total["p"] += p_value(found, sums, seeds) <= 0.05
        total["flip"] += sign_flip(sums) <= 0.05
        if seeds > 1:
            total["pigeonhole"] += pigeonhole.holds(table)
            total["subtracted"] += abs(table.mean()) <= subtracted(table)
            total["effect"] += seeds * (components(table)[0] - components(table)[2])
    shares = {name: value / studies for name, value in total.items()}
    return shares | {"effect": math.sqrt(max(shares["effect"], 0.0))}


def main() -> None:
    """Print the table as Markdown."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--studies", type=int, default=2_000)
    words.add_argument("--items", type=int, default=600)
    given = words.parse_args()
    print(
        "| seeds | seeds' effect | ours | half width | items alone | pigeonhole | var_e once | p <= 0.05 | sign-flip |"
    )
    print("|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for seeds in SEEDS:
        for of_seeds in OF_SEEDS if seeds > 1 else OF_SEEDS[:1]:
            found = simulate(seeds, given.items, of_seeds, given.studies)
            two_way = [f"{found[name]:.3f}" if seeds > 1 else "" for name in ("pigeonhole", "subtracted")]
            cells = [
                str(seeds),
                f"{found['effect']:.3f}" if seeds > 1 else "",
                f"{found['ours']:.3f}",
                f"{found['width']:.3f}",
            ]
            cells += [f"{found['items']:.3f}", *two_way, f"{found['p']:.3f}", f"{found['flip']:.3f}"]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
