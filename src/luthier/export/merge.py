# SPDX-License-Identifier: Apache-2.0
"""Fold an adapter into its base and prove that the result, read again from disk, is the model that was trained.

base + adapter             -- logits -------------> remembered
  | W + gamma B A in float32, rounded once              |
plain transformers folder  -- read again, logits -> compared -> merge_proof.json, or no folder at all

An adapter of a quantised base learned what its codes say, so it can be folded into two bases: into these codes made
dense, or into the 16-bit checkpoint that they were made from. Both are held against the trained model, and the nearer
one is written.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from luthier.core.errors import RunFailed
from luthier.export.adapter import load_adapter
from luthier.export.card import write_card
from luthier.export.folder import new_folder
from luthier.export.held_out import held_out_rows, load_words
from luthier.export.origin import find_origin
from luthier.export.pair_proof import PairComparison, held_out_pairs
from luthier.export.proof import Comparison
from luthier.export.value_proof import ValueComparison
from luthier.models.backbone import learned_positions
from luthier.models.bars import without_bars
from luthier.models.heads import task_of_model
from luthier.models.purpose import name_labels, read_purpose
from luthier.models.quantized import as_loaded, dense_, is_quantized
from luthier.models.save import save_model, save_words
from luthier.models.tasks import auto_class

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from luthier.core.tasks import Task
    from luthier.core.trainable import Trainable
    from luthier.export.origin import Origin
    from luthier.export.proof import Proof
    from luthier.export.value_proof import ValueProof

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Up to here both sides of the comparison run in float32, so that only the rounding of the merged weights is seen;
# above, float32 may not fit beside the rest, and they run in the type that is written.
FLOAT32_UP_TO = 2_000_000_000


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A folder that was written, and how it was found to behave.

    Attributes:
        folder: Where it is.
        proof: The comparison with the trained model.
    """

    folder: Path
    proof: Proof | ValueProof

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {"folder": str(self.folder), "proof": self.proof.to_json()}


def merge_run(  # noqa: PLR0913 - each is an option
    source: str | Path,
    output: str | Path | None = None,
    *,
    base: str | None = None,
    dtype: Dtype = "auto",
    max_shard_size: str = "5GB",
    texts: Sequence[str] = (),
    bound: float | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Exported:
    """Merge an adapter into its base and write a plain transformers folder.

    Args:
        source: A run folder, or a PEFT adapter folder of any origin.
        output: The new folder; default `merged` in the run, or beside the adapter.
        base: The base model, where it is not where the adapter says.
        dtype: Of the written weights; `auto` is the base checkpoint's.
        max_shard_size: Largest file of weights.
        texts: Compare on these instead of the run's held-out rows.
        bound: Mean KL in nats at most (of a reward model, as in `value_proof`); default by `dtype`.
        overwrite: Replace an earlier export.
        say: Receives one line at a time.

    Returns:
        The folder and its proof, which is also in `merge_proof.json` there.

    Raises:
        UserError: There is no adapter, the base does not fit, or something stands in the output's place.
        RunFailed: The written model is not the trained one within the bound; no folder is left.
    """
    origin = find_origin(source, base)
    final = Path(output).expanduser() if output else origin.beside("merged")
    tokenizer = load_words(origin)
    with new_folder(final, overwrite=overwrite, inputs=origin.inputs) as folder:
        model, written = load_base(origin, dtype)
        computed, device = model.dtype, model.device
        trainable = load_adapter(model, origin.adapter)
        comparison = comparison_of(model, origin, tokenizer, texts, say)
        comparison.remember(model)
        with trainable.disabled():
            comparison.measure_base(model)
        say(f"merging {type(model).__name__} in {short(computed)}, writing {short(written)}")
        task = task_of_model(model)
        bases: dict[str, Any] = {}
        if is_quantized(model):
            del model, trainable  # for a moment there is one model in memory, never two
            trainable, bases = nearer_base(origin, dtype, comparison, say)
            model = trainable.model
        write_model(as_loaded(trainable.merge()), written, tokenizer, folder, max_shard_size)
        library = copy_purpose(origin, folder, model)
        del model, trainable
        again = read_again(folder, written, task).to(device, computed)
        proof = comparison.prove(again, dtype=written, bound=bound)
        proof.demand(str(final))
        about = {"adapter": str(origin.adapter.resolve()), "base": origin.model.model_name_or_path, **bases}
        about |= proof.to_json()
        (folder / "merge_proof.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        write_card(folder, origin, f"a merged model in {short(written)}", proof, library)
    return Exported(folder=final, proof=proof)


def load_base(origin: Origin, dtype: Dtype = "auto") -> tuple[PreTrainedModel, torch.dtype]:
    """Load the plain base for an export.

    Args:
        origin: The adapter.
        dtype: What is going to be written; `auto` is the checkpoint's type.

    Returns:
        The model in the type to compute in, on the device to compute on, and the type to write.

    Raises:
        ModelError: It cannot be loaded.
    """
    model = origin.load_base("auto", attention="eager")  # type: ignore[arg-type]
    if purpose := read_purpose(origin.adapter):  # an adapter's folder has no config.json that names labels
        name_labels(model.config, purpose.labels)
    written = model.dtype if dtype == "auto" else DTYPES[dtype]
    wide = written.itemsize >= torch.float32.itemsize or model.num_parameters() <= FLOAT32_UP_TO
    model.to(torch.promote_types(written, torch.float32) if wide else written)
    needed = 1.3 * model.get_memory_footprint()
    if torch.cuda.is_available() and torch.cuda.mem_get_info()[0] > needed:
        model.to("cuda")
    return model, written


def nearer_base(
    origin: Origin, dtype: Dtype, comparison: Comparison | ValueComparison, say: Callable[[str], None]
) -> tuple[Trainable, dict[str, Any]]:
    """The adapter on whichever base makes the merged model the more like the trained one; and how near both come."""
    kinds = {"dequantized": origin}
    if origin.model.quantization != "none":  # else the checkpoint itself holds codes, and there is nothing else
        kinds = {"16-bit": origin.in_sixteen_bits()} | kinds
    found: dict[str, Proof | ValueProof] = {}
    for kind, source in kinds.items():
        model, written = load_base(source, dtype)
        trainable = load_adapter(model, origin.adapter)
        merged: Any = dense_(trainable.merge())
        found[kind] = comparison.prove(merged, dtype=written)
        say(f"on the {kind} base: {found[kind].told()}")
    nearest = min(found, key=lambda kind: found[kind].distance)
    say(f"the {nearest} base is written: merged, it is the nearer to the model that was trained")
    model, _ = load_base(kinds[nearest], dtype)
    trainable = load_adapter(model, origin.adapter)
    return trainable, {"base_weights": nearest, "bases": {kind: proof.to_json() for kind, proof in found.items()}}


def comparison_of(
    model: PreTrainedModel,
    origin: Origin,
    tokenizer: PreTrainedTokenizerBase | None,
    texts: Sequence[str],
    say: Callable[[str], None],
) -> Comparison | ValueComparison:
    """What an export is proved by: words, or what the head of a model for another task gives."""
    given: Any = (origin, tokenizer, vocabulary_of(model), texts, say)
    if task_of_model(model) == "SEQ_2_SEQ_LM":
        return PairComparison(*held_out_pairs(*given), vocabulary_of(model))
    rows, label = held_out_rows(*given)
    limit = learned_positions(model.get_decoder())
    rows = [row[:limit] for row in rows]
    if task_of_model(model) != "CAUSAL_LM":
        return ValueComparison(rows, label)
    return Comparison(rows, label, vocabulary_of(model))


def vocabulary_of(model: PreTrainedModel) -> int:
    """Number of words of the embedding."""
    return int(model.get_input_embeddings().weight.shape[0])


def write_model(
    model: PreTrainedModel,
    written: torch.dtype,
    tokenizer: PreTrainedTokenizerBase | None,
    folder: Path,
    max_shard_size: str,
) -> None:
    """Write a plain model, rounded once, and its tokenizer."""
    save_model(model.to("cpu", written), folder, max_shard_size)
    if tokenizer is not None:
        save_words(tokenizer, model, folder)


def read_again(folder: Path, written: torch.dtype, task: Task) -> PreTrainedModel:
    """What any user of the folder gets: transformers alone, and every tensor from the file."""
    model: PreTrainedModel
    with without_bars():
        model, report = auto_class(task).from_pretrained(
            folder, dtype=written, attn_implementation="eager", use_safetensors=True, output_loading_info=True
        )
    kinds = ("missing_keys", "unexpected_keys", "mismatched_keys")
    odd = [str(name) for kind in kinds for name in report.get(kind, ())]
    if odd:
        received = f"{len(odd)} tensors of the written model do not load again ({odd[0]} ...)"
        raise RunFailed(str(folder), received, "every tensor, and no other", "report it with the base's name")
    return model


def copy_purpose(origin: Origin, folder: Path, model: PreTrainedModel) -> str:
    """What a result is for, beside its weights in another form; and the library that reads it."""
    purpose = read_purpose(origin.adapter)
    if purpose is None:
        return "transformers"
    purpose.write(folder, model)
    return "sentence-transformers" if purpose.task == "FEATURE_EXTRACTION" else "transformers"


def short(dtype: torch.dtype) -> str:
    """`bfloat16`."""
    return str(dtype).removeprefix("torch.")
