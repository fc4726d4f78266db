# SPDX-License-Identifier: Apache-2.0
"""Is what training wrote what was trained? The result, read again from disk, beside the model in memory."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch

from luthier.core.errors import RunFailed
from luthier.export.adapter import load_adapter
from luthier.export.held_out import load_words
from luthier.export.merge import comparison_of
from luthier.models.backbone import serving
from luthier.models.fuse import fuse
from luthier.models.load import load_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedModel

    from luthier.core.trainable import Trainable
    from luthier.export.origin import Origin
    from luthier.export.proof import Proof
    from luthier.export.value_proof import ValueProof

# No export's own name: a folder with one of those may be replaced by `--overwrite`.
PROOF_FILE = "result_proof.json"


def prove_result(origin: Origin, trainable: Trainable, where: str, say: Callable[[str], None]) -> Proof | ValueProof:
    """Hold the result of a run against the model that it was written from, and write the figures beside it.

    Args:
        origin: The run's result on disk.
        trainable: The trained model, in memory.
        where: The key that asks for it.
        say: Receives one line at a time.

    Raises:
        RunFailed: It is not the same model, or there is no memory for a second one.
    """
    model: Any = trainable.model
    try:
        with serving(model):
            comparison: Any = comparison_of(model, origin, load_words(origin), (), say)
            comparison.remember(model)
            if not origin.whole:
                with trainable.disabled():
                    comparison.measure_base(model)
        with serving(_read_again(origin, model)) as again:
            proof: Proof | ValueProof = comparison.prove(again, dtype=model.dtype)
    except torch.OutOfMemoryError as error:
        form = "merged" if origin.whole or "peft_type" not in origin.config else "peft"
        fix = f"the result is whole: `luthier export {origin.run} --to {form} --push-to NAME` has the memory to itself"
        raise RunFailed(where, "no memory to read the result beside the trained model", "room for both", fix) from error
    if not proof.holds:
        received = f"read again from disk, the result is not what was trained: {proof.told()}"
        fix = f"nothing was uploaded; {origin.adapter} is as it was written; report it with the recipe"
        raise RunFailed(where, received, "the same numbers", fix)
    text = json.dumps({"result": str(origin.adapter.resolve()), **proof.to_json()}, indent=2)
    (origin.adapter / PROOF_FILE).write_text(text + "\n", encoding="utf-8")
    return proof


def _read_again(origin: Origin, trained: PreTrainedModel) -> PreTrainedModel:
    """The result by its folder alone, with the fast modules that the trained model has: both round alike."""
    if origin.whole:
        model = load_model(origin.model, trained.dtype, task=None)
        fuse(model)
        return model.to(trained.device)
    model = origin.load_base(trained.dtype).to(trained.device)
    fuse(model)
    load_adapter(model, origin.adapter)
    return model
