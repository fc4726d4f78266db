# SPDX-License-Identifier: Apache-2.0
"""Starting values for one model, its rows and a memory: each with its reason, its source, and how sure it is."""

from luthier.advise.advice import Advised, advise
from luthier.advise.facts import DataFacts, Facts, MachineFacts, ModelFacts

__all__ = ["Advised", "DataFacts", "Facts", "MachineFacts", "ModelFacts", "advise"]
