# SPDX-License-Identifier: Apache-2.0
"""Rows -> examples -> trees -> batches. Numpy only: nothing here imports torch."""

from luthier.data.order import Batches, eval_batches
from luthier.data.prepare import Prepared, prepare

__all__ = ["Batches", "Prepared", "eval_batches", "prepare"]
