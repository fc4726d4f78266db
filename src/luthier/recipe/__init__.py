# SPDX-License-Identifier: Apache-2.0
"""One run, fully described: typed, strict, immutable, fingerprinted. No torch here."""

from luthier.recipe.fingerprint import fingerprint
from luthier.recipe.load import Resolved, entry_config, load_recipe, resolve, source_of
from luthier.recipe.schema import Data, Model, Optim, Recipe, Source, Train

__all__ = [
    "Data",
    "Model",
    "Optim",
    "Recipe",
    "Resolved",
    "Source",
    "Train",
    "entry_config",
    "fingerprint",
    "load_recipe",
    "resolve",
    "source_of",
]
