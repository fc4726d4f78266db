# SPDX-License-Identifier: Apache-2.0
"""The reference of preference objectives: which model it is, and what it says of the rows.

    start    the policy before its first step: the base (adapters off), a loaded SFT adapter, or a whole model
    base     the model without any adapter
    FOLDER   another model

What it says of the scored tokens is computed in each step (adapters off, no gradient), or once for the rows that the
run draws and kept on disk (`data.reference`): then no second model is ever in memory, also in full fine-tuning, and
all runs of a study share the work.
"""

from __future__ import annotations

import hashlib
import time
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from luthier.core.errors import LuthierError, RecipeError
from luthier.data.reference import Referenced, ReferenceStore
from luthier.engine.flops import Updated
from luthier.kernels.forest import Forest, plant
from luthier.models import outputs
from luthier.models.values import value_head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy.typing as npt
    from transformers import PreTrainedTokenizerBase as Words

    from luthier.core.trainable import Trainable
    from luthier.data import Batches
    from luthier.data.rows import Drawn
    from luthier.engine.rows import Rows
    from luthier.recipe import Recipe

    Load = Callable[[str], tuple[torch.nn.Module, Words]]
    Refer = Callable[[Forest], Forest]
    Say = Callable[[str], None]

GROUP = {"cpu": 1024, "cuda": 16384}  # tokens of a pass: a CPU is as fast from 450 on, and short rows waste none

WHAT = {"start": "the policy before its first step", "base": "the base without any adapter"}
TOLD = 30.0  # seconds between two lines about how far it is


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a recipe says of its reference.

    Attributes:
        reference: `start`, `base`, or a folder.
        precompute: Once for all rows (True), in every step (False), or `auto`.
        adapter: The policy starts from a loaded adapter.
        method: Its name, for messages.
        digests: What the rows are, by `train` and `eval`.
    """

    reference: str
    precompute: bool | str
    adapter: bool
    method: str
    digests: Mapping[str, str]

    def is_start(self, trainable: Trainable) -> bool:
        """Whether policy and reference are one before the first step."""
        return self.reference == "start" or (self.reference == "base" and self._starts_as_base(trainable))

    def keeps_base(self, trainable: Trainable) -> bool:
        """Whether the policy can be turned back into the reference at any time."""
        return trainable.folder == "adapter" and (self.reference != "start" or self._starts_as_base(trainable))

    def _starts_as_base(self, trainable: Trainable) -> bool:
        return trainable.starts_as_base and not self.adapter


def asked_by(recipe: Recipe, rows: Rows) -> Asked:
    """What a recipe says of its reference."""
    return Asked(
        reference=recipe.objective["reference"],
        precompute=recipe.objective["precompute_ref_log_probs"],
        adapter=recipe.model.adapter_name_or_path is not None,
        method=recipe.method["name"],
        digests={"train": rows.train.digest(), "eval": rows.held_out.digest() if rows.held_out else ""},
    )


def digest_of(model: torch.nn.Module, leave_out: Sequence[torch.nn.Parameter] = ()) -> str:
    """Every weight of a model and its configuration, in 16 digits.

    Args:
        model: As it answers.
        leave_out: Parameters of a method that is off: it has no part in the digest.
    """
    without = {id(parameter) for parameter in leave_out}
    if leave_out:  # what such a method keeps frozen beside the base goes with it
        layers = [module for module in model.modules() if isinstance(module, Updated)]
        without |= {id(buffer) for layer in layers for buffer in layer.buffers(recurse=False)}
    found = hashlib.blake2b(digest_size=8)
    config: Any = getattr(model, "config", None)
    told = {} if config is None else config.to_diff_dict()
    words = {key: told[key] for key in sorted(told) if not key.startswith("_") and key != "transformers_version"}
    found.update(repr(words).encode())
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if id(tensor) not in without:
            found.update(f"{name.replace('.base_layer', '')} {tensor.dtype} {tuple(tensor.shape)}".encode())
            found.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    scaled = [] if leave_out else [getattr(m, "scaling", 1.0) for m in model.modules() if isinstance(m, Updated)]
    found.update(repr(scaled).encode() if scaled else b"")
    return found.hexdigest()


@contextmanager
def asked(model: torch.nn.Module, inside: AbstractContextManager[Any]) -> Iterator[None]:
    """Inside, the model answers as the reference: no gradient, no dropout; the random state is left as it was."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), inside:
            yield
    finally:
        model.train(was_training)


def refer_in_step(trainable: Trainable) -> Refer:
    """Ask the policy with its adapters off, one more forward pass a micro-batch."""

    def refer(forest: Forest) -> Forest:
        with asked(trainable.model, trainable.disabled()):
            return replace(forest, reference=outputs(trainable.model, forest))

    return refer


def precompute(
    model: torch.nn.Module,
    rows: Drawn,
    wanted: npt.NDArray[Any],
    facts: Mapping[str, str],
    *,
    inside: Callable[[], AbstractContextManager[Any]] = nullcontext,
    say: Say,
) -> Referenced:
    """Ask the reference for the rows that it was not asked for before, and keep what it says.

    Args:
        model: On its device.
        rows: The run's rows.
        wanted: Those that it draws.
        facts: What the numbers depend on besides device, numbers and versions.
        inside: In which the model is the reference.
        say: Told how many rows are asked for.

    Raises:
        DataError: The cache cannot be written.
    """
    parameter = next(model.parameters())
    device = parameter.device
    about = {**facts, "device": device.type, "dtype": str(parameter.dtype), "torch": torch.__version__}
    shape = (rows.lengths, rows.prompts, rows.answers)  # the same rows with or without mismatched answers
    about["shape"] = hashlib.sha256(b"".join(np.asarray(part, np.int64).tobytes() for part in shape)).hexdigest()
    store = ReferenceStore(about, rows, GROUP.get(device.type, GROUP["cpu"]))
    missing = store.missing(wanted)
    count = sum(len(store.rows_of(group)) for group in missing)
    if count:
        say(f"the reference's log-probabilities of {count:,} rows are computed and kept in {store.folder}")
    else:
        say(f"the reference's log-probabilities are those kept in {store.folder}")
    done, begun = 0, time.monotonic()
    told = begun
    with asked(model, inside()):
        for group in missing:
            trees = [rows.tree(row) for row in store.rows_of(group)]
            said = outputs(model, plant(trees).to(device)).float().cpu().numpy()
            store.write(group, said, [tree.num_scored for tree in trees])
            done += len(trees)
            if (now := time.monotonic()) - told >= TOLD and done < count:
                told, left = now, (now - begun) * (count - done) / done
                say(f"the reference: {done:,} of {count:,} rows, about {left / 60:.0f} minutes left")
    return Referenced(rows, store)


def settle(want: Asked, trainable: Trainable, rows: Rows, load: Load, say: Say) -> tuple[Refer | None, Drawn | None]:
    """Decide where the reference's words come from, and compute those that are kept.

    Args:
        want: The recipe's words.
        trainable: The policy before its first step.
        rows: The run's; its batches' rows carry the words afterwards, where they are kept.
        load: Loads another model by its folder, and its tokenizer.
        say: Told what the reference is.

    Returns:
        What adds the words to a forest in each step (None where rows carry them), and the rows to evaluate on.

    Raises:
        RecipeError: The choice does not go with the method, or the other model cannot be loaded or has other tokens.
        DataError: The cache cannot be written.
    """
    batches, held_out = rows.batches, rows.eval_rows
    if not decide(want, trainable, _once(batches)):
        say(f"the reference is {WHAT[want.reference]}, asked in every step")
        return refer_in_step(trainable), held_out
    say(f"the reference is {WHAT.get(want.reference, want.reference)}")
    model: torch.nn.Module = trainable.model
    inside: Callable[[], AbstractContextManager[Any]] = nullcontext
    leave_out: list[torch.nn.Parameter] = []
    if want.reference not in WHAT:
        model = _other(want.reference, load, trainable.model, rows.tokenizer)
    elif want.keeps_base(trainable):
        inside, leave_out = trainable.disabled, list(trainable.parameters().values())
    with inside():  # biases and whole modules that train are then what they were
        facts = {"weights": digest_of(model, leave_out)}
    batches.rows = precompute(
        model, batches.rows, batches.visited(), facts | {"rows": want.digests["train"]}, inside=inside, say=say
    )
    if held_out is None:
        return None, None
    every = np.arange(len(held_out))
    return None, precompute(model, held_out, every, facts | {"rows": want.digests["eval"]}, inside=inside, say=say)


def check_reference(want: Asked, trainable: Trainable, rows: Rows, load: Load) -> None:
    """Refuse what :func:`settle` would, and compute nothing.

    Raises:
        RecipeError: As there.
    """
    decide(want, trainable, _once(rows.batches))
    if want.reference not in WHAT:
        _other(want.reference, load, trainable.model, rows.tokenizer)


def _once(batches: Batches) -> bool:
    return batches.epoch(batches.total_steps) >= 1.0


def _other(name: str, load: Load, policy: torch.nn.Module, own: Words) -> torch.nn.Module:
    """Another model as reference: one of words, to which each of the policy's tokens means the same."""
    where, fix = "objective.reference", "name another, or `start` or `base`"
    try:
        other, words = load(name)
    except LuthierError as error:  # a run without a result too
        raise RecipeError(f"{where}: {error.where}", error.received, error.allowed, error.fix) from None
    if value_head(other) is not None:
        received = f"{name} is a reward model, which gives values instead of words"
        raise RecipeError(where, received, "a model that predicts the next token", fix)
    known, asked_for = words.get_vocab(), own.get_vocab()
    strange = [token for token, number in asked_for.items() if known.get(token) != number]
    if strange:
        received = f"{name} has another tokenizer: {len(strange):,} of the policy's {len(asked_for):,} tokens have "
        received += f"another number there or none, such as {min(strange, key=asked_for.__getitem__)!r}"
        raise RecipeError(where, received, "a model with the policy's tokenizer", fix)
    rows, needed = (int(model.get_input_embeddings().weight.shape[0]) for model in (other, policy))  # type: ignore[operator]
    if rows < min(needed, 1 + max(asked_for.values())):
        received = f"{name} has embeddings for {rows:,} tokens only, the policy for {needed:,}"
        raise RecipeError(where, received, "a model with the policy's tokenizer", fix)
    return other


def decide(want: Asked, trainable: Trainable, once: bool) -> bool:
    """Whether what the reference says is computed once for all rows, rather than in every step.

    Args:
        want: The recipe's words.
        trainable: The policy.
        once: Whether the run draws each row at least once.

    Raises:
        RecipeError: In every step is asked for, and the policy does not keep its reference.
    """
    if want.precompute is True:
        return True
    keeps = want.keeps_base(trainable) and want.reference in WHAT
    if want.precompute is False and not keeps:
        raise RecipeError(
            "objective.precompute_ref_log_probs",
            f"false, with {_why_not(want, trainable)}",
            "true: computed once, before the first step, so no second model is held",
            "set it to true or auto",
        )
    return not keeps or (want.precompute == "auto" and once)


def _why_not(want: Asked, trainable: Trainable) -> str:
    if want.reference not in WHAT:
        return f"{want.reference} as reference"
    if trainable.folder != "adapter":
        return f"method {want.method}, which moves the reference's own weights"
    if not trainable.starts_as_base:
        return f"method {want.method}, whose first state is not its base: training moves it"
    return "an adapter that was loaded as reference: training moves it"
