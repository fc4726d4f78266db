# SPDX-License-Identifier: Apache-2.0
"""The facts: a model's configuration, the rows of a recipe, the memory that was named or that is free here."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from luthier.advise.facts import Facts, MachineFacts, ModelFacts
from luthier.advise.rows import look_at_rows, objective_for
from luthier.core import registry
from luthier.core.errors import ModelError, UserError
from luthier.engine.precision import pick_device
from luthier.models import load_tokenizer
from luthier.models.anatomy import dissect
from luthier.models.load import bf16_is_fast, load_config
from luthier.models.source_target import writes_from_source
from luthier.planning.activations import saved_by_formula
from luthier.planning.free import free_bytes
from luthier.planning.shadow import saved_bytes
from luthier.recipe.schema import Model
from luthier.recipe.tasks import rows_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from luthier.models.anatomy import Anatomy, Part
    from luthier.recipe.schema import Data

    Say = Callable[[str], None]

UNITS = {"": 1, "b": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30}
UNITS |= {"ti": 2**40}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt]i?)?b?\s*", re.IGNORECASE)
NARROW = 8  # linears with a smaller side are left out of all-linear: they would hold r below it (gates of experts)


def gather(
    model: Model,
    data: Data | None,
    machine: MachineFacts,
    *,
    objective: str | None,
    method: str | None,
    say: Say = lambda _: None,
) -> Facts:
    """Look at everything.

    Args:
        model: The recipe's section.
        data: Likewise, or None where no rows were named.
        machine: See :func:`look_at_machine`.
        objective: Its name; None: what the rows are for.
        method: A method to hold to, or None.
        say: Receives a line at a time about what is read.

    Raises:
        UserError: A name is unknown, or model or rows cannot be used.
    """
    if method is not None:
        registry.get("methods", method, "method.name")
    kind = None if objective is None else rows_of(objective)
    found = look_at_model(model, machine)
    rows = None
    if data is not None:
        words = (model.model_name_or_path, model.model_revision, model.trust_remote_code)
        tokenizer = load_tokenizer(*words, alone=True)
        found = replace(found, chats=bool(tokenizer.chat_template))
        rows = look_at_rows(data, tokenizer, say, kind=kind)
    if objective is None:
        objective = "sft" if rows is None else objective_for(rows)
    return Facts(model=found, data=rows, machine=machine, objective=objective, method=method)


def look_at_model(model: Model, machine: MachineFacts) -> ModelFacts:
    """Read a model's configuration, and count its activations in two of its layers.

    Raises:
        ModelError: There is no such model, it is an encoder-decoder, or nothing in it can be adapted.
    """
    name, revision, code = model.model_name_or_path, model.model_revision, model.trust_remote_code
    config = load_config(name, revision, code, weights=False)
    if writes_from_source(config):
        received = (
            f"{config.model_type}, an encoder-decoder: nothing that was published or measured here is about these"
        )
        fix = "start from recipes/seq2seq.yaml; `luthier plan` tells what fits"
        raise ModelError(f"advise {name}", received, "a model that reads and writes one text, or an encoder", fix)
    anatomy = dissect(name, 1, revision, code)
    choice = next((one for one in anatomy.choices if one.target_modules == "all-linear"), None)
    if choice is None:
        allowed = "a model of linear layers; `luthier inspect` shows what it is made of"
        raise ModelError(f"model {name}", "it has no linear layer that LoRA could adapt", allowed)
    parts = [part for part in anatomy.parts if _is_target(part, choice.exclude_modules)]
    narrow = [part for part in parts if min(part.shape) < NARROW]
    exclude = (*choice.exclude_modules, *dict.fromkeys(part.name.split(".")[-1] for part in narrow))
    dtype = torch.bfloat16 if machine.bf16 else torch.float32
    hidden, layers = int(anatomy.facts["hidden_size"]), int(anatomy.facts["layers"])
    saved = saved_bytes(config, dtype, exclude, code)
    formula = saved_by_formula(hidden, layers, dtype.itemsize)
    return ModelFacts(
        name=name,
        parameters=anatomy.parameters,
        hidden_size=hidden,
        layers=layers,
        vocabulary=int(anatomy.facts["vocabulary"]),
        tied=anatomy.tied,
        positions=anatomy.facts["positions"],
        linear=_linear_numbers(anatomy),
        per_rank=choice.trained - sum(part.count * sum(part.shape) for part in narrow),
        smallest=min((min(part.shape) for part in parts if part not in narrow), default=NARROW),
        exclude=exclude,
        saved_lora=saved[0] if saved else formula,
        saved_full=saved[1] if saved else formula,
        counted="layers" if saved else "formula",
    )


def _is_target(part: Part, exclude: tuple[str, ...]) -> bool:
    """Whether `all-linear` reaches it."""
    inside = {word.rpartition(".")[2] for word in exclude} & set(part.name.split("."))
    return part.adaptable and part.kind not in ("head", "embedding") and len(part.shape) == 2 and not inside


def _linear_numbers(anatomy: Anatomy) -> int:
    """Numbers in linears but the head, stacked experts not among them: what is quantised."""
    kinds = ("attention", "mlp", "other")
    return sum(p.parameters for p in anatomy.parts if p.kind in kinds and p.adaptable and len(p.shape) == 2)


def look_at_machine(memory: str | None, device: str | None) -> MachineFacts:
    """What a run may take, and where.

    Args:
        memory: As given, such as `24GB`; None: what is free here.
        device: `cpu`, `cuda` or None: the GPU where there is one.

    Raises:
        UserError: No number, no such device, or this machine does not tell what it has free.
    """
    here = pick_device().type
    if device not in (None, "cpu", "cuda"):
        raise UserError("--device", f"received {device!r}", "cpu or cuda", "correct it")
    where: Literal["cpu", "cuda"] = "cuda" if (device or here) == "cuda" else "cpu"
    if memory is None:
        if where != here:
            raise UserError("--device", f"{where}, and this machine has none", "its memory", "add --memory, as in 24GB")
        found = free_bytes(torch.device(where))
        if found is None:
            raise UserError("--memory", "this machine does not tell what it has free", "a size", "add --memory 24GB")
    else:
        found = bytes_of(memory)
    # a GPU that is not here is taken for one of 2020 or later, which multiplies bfloat16
    bf16 = True if where == "cuda" and here != "cuda" else bf16_is_fast(where)
    told = "free here" if memory is None else "--memory"
    offered: Any = get_args(Model.model_fields["quantization"].annotation)
    quantizations = tuple(name for name in offered if name != "none")
    return MachineFacts(device=where, memory=found, told=told, bf16=bf16, quantizations=quantizations)


def bytes_of(text: str) -> int:
    """Read a size.

    Raises:
        UserError: It is none.

    Example:
        >>> bytes_of("24GB"), bytes_of("1.5 GiB"), bytes_of("80g")
        (24000000000, 1610612736, 80000000000)
    """
    found = _SIZE.fullmatch(text)
    count = int(float(found[1]) * UNITS[(found[2] or "").lower()]) if found else 0
    if count < 1 << 20:
        raise UserError("--memory", f"received {text!r}", "a size of at least 1MB", "write it as 24GB, or 22.5GiB")
    return count
