# SPDX-License-Identifier: Apache-2.0
"""A name or folder -> a model that runs forests, its tokenizer, and what can be adapted in it."""

from luthier.models.backbone import scored_logprobs, serving
from luthier.models.load import load_model, load_tokenizer, locate
from luthier.models.values import outputs, segment_values

__all__ = ["load_model", "load_tokenizer", "locate", "outputs", "scored_logprobs", "segment_values", "serving"]
