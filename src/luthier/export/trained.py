# SPDX-License-Identifier: Apache-2.0
"""A run, an adapter or a whole model -> one plain model to write in another form, and what it says on held-out rows."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from luthier.core.errors import LuthierError, UserError
from luthier.export.adapter import load_adapter
from luthier.export.held_out import load_words
from luthier.export.merge import comparison_of, load_base, nearer_base
from luthier.export.origin import find_result
from luthier.models.heads import task_of_model
from luthier.models.load import load_model
from luthier.models.quantized import as_loaded, is_quantized
from luthier.recipe.tasks import task_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from luthier.export.origin import Origin
    from luthier.export.proof import Comparison, Proof


@dataclass(frozen=True, kw_only=True)
class Request:
    """What every form of export is asked.

    Attributes:
        source: A run folder, an adapter folder of any origin, a transformers folder, or `embedded`.
        output: The new folder; by default one that is named after the form, in the run or beside the source.
        base: The base model, where it is not where the adapter says.
        texts: Compare on these instead of the run's held-out rows.
        bound: Mean KL in nats at most; default by what is written.
        overwrite: Replace an earlier export.
        say: Receives one line at a time.
    """

    source: str | Path
    output: Path | None = None
    base: str | None = None
    texts: Sequence[str] = ()
    bound: float | None = None
    overwrite: bool = False
    say: Callable[[str], None] = print

    def place(self, origin: Origin, form: str) -> Path:
        """Where the result goes; the built-in models' own folders are not for that."""
        if self.output is None and str(self.source).startswith("embedded"):
            raise UserError("--output", "nothing, for a built-in model", "a new folder", "name one")
        return Path(self.output).expanduser() if self.output else origin.beside(form)


@dataclass(kw_only=True)
class Trained:
    """A trained model, plain, and what it is held against once written.

    Attributes:
        origin: Where it comes from.
        model: With the adapter in its weights, in the numbers to compute in.
        tokenizer: With the chat template of the training.
        written: Numbers of the checkpoint.
        comparison: Remembers what the model said with the adapter beside its base.
        bases: Of an adapter of a quantised base: how near both bases came.
    """

    origin: Origin
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    written: torch.dtype
    comparison: Comparison
    bases: dict[str, Any] = field(default_factory=dict)

    def record(self, proof: Proof, folder: Path, **more: Any) -> None:
        """Write export_proof.json."""
        about = {"source": str(self.origin.adapter.resolve()), "base": _base_name(self.origin)}
        about |= {**more, **self.bases, **proof.to_json()}
        (folder / "export_proof.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def open_trained(request: Request, form: str) -> Trained:
    """Load a trained language model, remember what it says, and fold its adapter into its weights.

    Args:
        request: Names it.
        form: For messages.

    Raises:
        UserError: There is none, or it is no language model.
        ModelError: It cannot be loaded.
    """
    origin, say = find_result(request.source, request.base), request.say
    tokenizer = load_words(origin)
    model, written = load_base(origin)
    if (task := task_of_model(model)) != "CAUSAL_LM":
        fix = "write it as a transformers folder: --to merged"
        raise UserError(f"--to {form}", f"a model for {task}", "a causal language model", fix)
    trainable = None if origin.whole else load_adapter(model, origin.adapter)
    comparison: Any = comparison_of(model, origin, tokenizer, request.texts, say)
    comparison.remember(model)
    bases: dict[str, Any] = {}
    if trainable is None:
        measure_start(origin, comparison, model.dtype)
        whole: Any = as_loaded(model)  # of codes what they stand for
        return Trained(origin=origin, model=whole, tokenizer=tokenizer, written=written, comparison=comparison)
    with trainable.disabled():
        comparison.measure_base(model)
    if is_quantized(model):
        del model, trainable  # for a moment there is one model in memory, never two
        trainable, bases = nearer_base(origin, "auto", comparison, say)
    merged: Any = as_loaded(trainable.merge())
    parts = {"tokenizer": tokenizer, "written": written, "comparison": comparison, "bases": bases}
    return Trained(origin=origin, model=merged, **parts)


@torch.no_grad()
def measure_start(origin: Origin, comparison: Comparison, dtype: torch.dtype) -> None:
    """Measure how far a run that trained the whole model moved it, where its base is still there and has its head."""
    if origin.recipe is None or task_of(origin.recipe) not in ("CAUSAL_LM", "SEQ_2_SEQ_LM"):
        return
    try:
        comparison.measure_base(load_model(origin.recipe.model, dtype, attention="eager"))
    except (LuthierError, OSError):  # moved away: then the proof has one number less
        return


def _base_name(origin: Origin) -> str:
    return origin.recipe.model.model_name_or_path if origin.recipe else origin.model.model_name_or_path
