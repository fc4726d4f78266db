# SPDX-License-Identifier: Apache-2.0
"""Rows -> examples -> trees -> batches. Numpy only: nothing here imports torch."""

from luthier.data.mismatch import Mismatched
from luthier.data.order import Batches, eval_batches
from luthier.data.prepare import Prepared, prepare
from luthier.data.rows import Drawn, Rows

__all__ = ["Batches", "Drawn", "Mismatched", "Prepared", "Rows", "eval_batches", "prepare"]
