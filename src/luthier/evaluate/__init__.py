# SPDX-License-Identifier: Apache-2.0
"""What a model can do, as a number with its error: suites of items, exact checks, statistics of one score."""

from luthier.evaluate.exact import Item, Score, score
from luthier.evaluate.suite import Evaluation, Suite, evaluate, load_suite

__all__ = ["Evaluation", "Item", "Score", "Suite", "evaluate", "load_suite", "score"]
