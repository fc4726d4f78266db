# SPDX-License-Identifier: Apache-2.0
"""What a model can do, as a number with its error: suites of items, exact checks, statistics of one score."""

from luthier.evaluate.evaluation import Evaluation
from luthier.evaluate.suite import Suite, evaluate, load_suite

__all__ = ["Evaluation", "Suite", "evaluate", "load_suite"]
