# SPDX-License-Identifier: Apache-2.0
"""What a model is made of and what each choice of `target_modules` trains: from its configuration, without weights.

The model is built on the `meta` device: a 70B takes a second and no memory.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from luthier.core.errors import ModelError, RecipeError
from luthier.models.heads import task_of_model
from luthier.models.load import load_config
from luthier.models.targets import Kind, find_targets, is_adaptable, kind_of, stacked_experts
from luthier.models.tasks import auto_class, task_of
from luthier.models.ties import head_of, tied_pair

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transformers import PretrainedConfig, PreTrainedModel

    from luthier.core.tasks import Task

# What families call the matrices that LoRA's authors adapted (queries and values), also where they are one matrix.
_QUERY_VALUE: tuple[tuple[str, ...], ...] = (
    ("q_proj", "v_proj"),
    ("q", "v"),
    ("query_key_value",),
    ("qkv_proj",),
    ("c_attn",),
    ("Wqkv",),
    ("query", "value"),
    ("q_lin", "v_lin"),
    ("q_proj", "kv_b_proj"),
    ("q_b_proj", "kv_b_proj"),
)
_PAPER = "queries and values, as in the LoRA paper"
# An adapter in training: float32 weights, gradients and two AdamW moments.
_TRAINING_BYTES, _DISK_BYTES = 16, 4


@dataclass(frozen=True, kw_only=True)
class Part:
    """Modules, or parameters that stand alone, of the same name in every layer.

    Attributes:
        name: With the numbers it stands for: `model.layers.0-31.self_attn.q_proj`.
        kind: attention, mlp, norm, embedding, head or other.
        type: The module's class.
        shape: Of its weight.
        bias: Whether it has one.
        count: How many there are.
        parameters: Of all of them; a matrix that stands above already (a tied head) counts 0 here.
        adaptable: Whether LoRA can wrap it; experts stored as one tensor it cannot, yet.
    """

    name: str
    kind: Kind
    type: str
    shape: tuple[int, ...]
    bias: bool
    count: int
    parameters: int
    adaptable: bool


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One way to write `target_modules`.

    Attributes:
        target_modules: As in a recipe.
        exclude_modules: What has to be left out for it (stacked experts).
        note: What is special about it.
        modules: How many layers it wraps.
        trained: Parameters at rank r.
        share: Of the base model's parameters.
        disk_bytes: The adapter on disk, float32.
        training_bytes: Adapter, gradients and AdamW's state, float32.
        too_small: Layers with a side below r, where r has to be lower (`rank_pattern`).
    """

    target_modules: str | tuple[str, ...]
    exclude_modules: tuple[str, ...]
    note: str
    modules: int
    trained: int
    share: float
    disk_bytes: int
    training_bytes: int
    too_small: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """A model's parts, facts and choices; see :func:`dissect`."""

    model: str
    architecture: str
    model_type: str
    parameters: int
    task: Task
    tied: bool
    r: int
    facts: dict[str, Any]
    parts: tuple[Part, ...]
    choices: tuple[Choice, ...]

    def to_json(self) -> dict[str, Any]:
        """The same as plain lists and dictionaries."""
        return asdict(self)


def dissect(name_or_path: str, r: int = 16, revision: str | None = None, trust_remote_code: bool = False) -> Anatomy:
    """Look at a model without its weights.

    Args:
        name_or_path: A folder, a hub name, or `embedded`.
        r: Rank for which the choices are counted.
        revision: Hub revision.
        trust_remote_code: Run code that comes with the model.

    Raises:
        ModelError: There is no such model.
    """
    config = load_config(name_or_path, revision, trust_remote_code, weights=False)
    model = _build(name_or_path, config, trust_remote_code)
    total = sum(parameter.numel() for parameter in model.parameters())
    return Anatomy(
        model=name_or_path,
        architecture=type(model).__name__,
        model_type=config.model_type,
        parameters=total,
        task=task_of_model(model),
        tied=tied_pair(model) is not None,
        r=r,
        facts=_facts(config),
        parts=tuple(_parts(model)),
        choices=tuple(_choices(model, r, total)),
    )


def _build(name: str, config: PretrainedConfig, trust_remote_code: bool) -> PreTrainedModel:
    kind = auto_class(task_of(config))
    try:
        with torch.device("meta"):
            model: PreTrainedModel = kind.from_config(config, trust_remote_code=trust_remote_code)
    except (ValueError, TypeError, RuntimeError, AttributeError, LookupError, ImportError) as error:
        received = f"cannot be built from its configuration ({str(error)[:200]})"
        raise ModelError(
            f"model {name}", received, "a configuration that transformers can build", "check it"
        ) from error
    return model


def _facts(config: PretrainedConfig) -> dict[str, Any]:
    """Attention and sizes, as far as the configuration tells them."""
    text = config.get_text_config()

    def told(*names: str) -> Any:
        return next((value for name in names if (value := getattr(text, name, None)) is not None), None)

    heads, hidden = told("num_attention_heads"), told("hidden_size")
    kinds = told("layer_types")
    window = told("sliding_window")
    windowed = (
        sum("sliding" in kind for kind in kinds) if kinds and window else (told("num_hidden_layers") if window else 0)
    )
    rope = told("rope_parameters") or {}
    return {
        "layers": told("num_hidden_layers"),
        "hidden_size": hidden,
        "vocabulary": told("vocab_size"),
        "heads": heads,
        "key_value_heads": told("num_key_value_heads") or heads,
        "head_size": told("head_dim") or (hidden // heads if hidden and heads else None),
        "window": window if windowed else None,
        "windowed_layers": windowed,
        "attention_soft_cap": told("attn_logit_softcapping"),
        "logit_soft_cap": told("final_logit_softcapping"),
        "positions": told("max_position_embeddings"),
        "rope": rope.get("rope_type") or next((v.get("rope_type") for v in rope.values() if isinstance(v, dict)), None),
        "experts": told("num_local_experts", "num_experts", "n_routed_experts"),
    }


def _parts(model: PreTrainedModel) -> list[Part]:
    """Leaf modules and lone parameters in the model's order, repeated layers as one."""
    head, experts = head_of(model), set(stacked_experts(model))
    groups: dict[tuple[Any, ...], list[tuple[str, int]]] = {}
    counted: set[int] = set()
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        for leaf, parameter in own.items():
            whole = leaf == "weight" and f"{name}.weight" not in experts  # a module by itself, with its bias
            if leaf == "bias" and "weight" in own:
                continue
            mine = [parameter, *([own["bias"]] if whole and "bias" in own else [])]
            fresh = [p for p in mine if id(p) not in counted]
            counted |= {id(p) for p in fresh}
            label = name if whole else f"{name}.{leaf}"
            key = (
                _starred(label),
                kind_of(name, module, head),
                type(module).__name__,
                tuple(parameter.shape),
                whole and "bias" in own,
                whole and is_adaptable(module),
            )
            groups.setdefault(key, []).append((label, sum(p.numel() for p in fresh)))
    return [
        Part(
            name=_ranged([label for label, _ in members]),
            kind=kind,
            type=kind_name,
            shape=shape,
            bias=bias,
            count=len(members),
            parameters=sum(numbers for _, numbers in members),
            adaptable=adaptable,
        )
        for (_, kind, kind_name, shape, bias, adaptable), members in groups.items()
    ]


def _starred(name: str) -> str:
    return ".".join("*" if part.isdecimal() else part for part in name.split("."))


def _ranged(names: list[str]) -> str:
    """One name for many that differ in their numbers.

    Example:
        >>> _ranged(["layers.0.mlp.up", "layers.1.mlp.up", "layers.3.mlp.up"])
        'layers.0-1,3.mlp.up'
    """
    columns = zip(*(name.split(".") for name in names), strict=True)
    return ".".join(parts[0] if len(set(parts)) == 1 else _ranges({int(part) for part in parts}) for parts in columns)


def _ranges(numbers: Iterable[int]) -> str:
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _choices(model: PreTrainedModel, r: int, total: int) -> list[Choice]:
    """The words of `target_modules`, the original paper's choice, and each leaf name."""
    leaves = list(dict.fromkeys(name.split(".")[-1] for name, module in model.named_modules() if is_adaptable(module)))
    paper = next((names for names in _QUERY_VALUE if set(names) <= set(leaves)), None)
    wanted: list[str | tuple[str, ...]] = ["all-linear", "attention", "mlp", *([paper] if paper else [])]
    wanted += [(leaf,) for leaf in leaves if not leaf.isdecimal() and (leaf,) != paper]
    experts = tuple(sorted({name.rpartition(".")[0].split(".")[-1] for name in stacked_experts(model)}))
    found = []
    for words in wanted:
        for excluded in ((), experts) if experts else ((),):
            try:
                targets = find_targets(model, words, exclude_modules=excluded or None)
            except RecipeError:
                continue  # nothing of this kind, or experts that have to be left out first
            found.append(_choice(words, excluded, _PAPER if words == paper else "", targets, r, total))
            break
    return found


def _choice(
    words: str | tuple[str, ...],
    excluded: tuple[str, ...],
    note: str,
    targets: dict[str, torch.nn.Module],
    r: int,
    total: int,
) -> Choice:
    shapes = {name: tuple(module.weight.shape) for name, module in targets.items()}  # type: ignore[arg-type]
    trained = sum(r * sum(shape) for shape in shapes.values())
    return Choice(
        target_modules=words,
        exclude_modules=excluded,
        note=note,
        modules=len(targets),
        trained=trained,
        share=trained / total,
        disk_bytes=_DISK_BYTES * trained,
        training_bytes=_TRAINING_BYTES * trained,
        too_small=tuple(name for name, shape in shapes.items() if r > min(shape)),
    )
