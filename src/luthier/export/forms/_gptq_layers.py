# SPDX-License-Identifier: Apache-2.0
"""A model layer by layer: each linear is rounded on the inputs that the already rounded part of the model gives it.

    rows -> [layer 0] -> [layer 1] ...     q, k, v on one input; then o on theirs; then gate and up; then down

Linears that read the same input share its covariance. One layer's inputs of all rows are held, in the model's numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from luthier.core.errors import ModelError
from luthier.export.gptq import cost, gptq, nearest
from luthier.models.layers import find_layers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import PreTrainedModel

    from luthier.export.gptq import Codes, Rounding


@torch.no_grad()
def round_layers(
    model: PreTrainedModel, rows: Sequence[Sequence[int]], how: Rounding, say: Callable[[str], None]
) -> dict[str, Codes]:
    """Round the linears of a model's layers, and put the rounded numbers into it.

    Args:
        model: Dense; changed in place. Embedding, head and norms stay.
        rows: Token ids to calibrate on.
        how: Bits and groups.
        say: Receives a line for each layer.

    Returns:
        Codes by the linears' names.

    Raises:
        ModelError: A linear's sizes do not fit the groups or the words of the files, or there is none.
        RunFailed: See :func:`luthier.export.gptq.gptq`.
    """
    place, _ = find_layers(model, "--to gptq")
    layers: Any = model.get_submodule(place)
    check_sizes(layers, how)
    hidden, given = _inputs(model, layers, rows)
    found: dict[str, Codes] = {}
    for number, layer in enumerate(layers):
        gained, lost = 0.0, 0.0
        for names in _same_input(layer, hidden[0], given[0][number]):
            hessian = _hessian(layer, names[0], hidden, [words[number] for words in given])
            for name in names:
                linear: Any = layer.get_submodule(name)
                codes = gptq(linear.weight, hessian, how)
                gained += cost(linear.weight, codes, hessian)
                lost += cost(linear.weight, nearest(linear.weight.double(), how), hessian)
                linear.weight.copy_(codes.dense().to(linear.weight))
                found[f"{place}.{number}.{name}"] = codes
        hidden = [_run(layer, x, words[number]) for x, words in zip(hidden, given, strict=True)]
        say(f"layer {number + 1} of {len(layers)}: error {gained:.3g}, of rounding to the nearest {lost:.3g}")
    return found


def linears(layer: nn.Module) -> dict[str, nn.Linear]:
    """The linears of a layer that can be rounded; routers of experts have too few outputs for a word and stay."""
    return {n: m for n, m in layer.named_modules() if isinstance(m, nn.Linear) and not _small(m)}


def _small(linear: nn.Linear) -> bool:
    return linear.out_features < 32


def check_sizes(layers: nn.Module, how: Rounding) -> None:
    """Refuse sizes that the groups or the words of the files do not divide.

    Raises:
        ModelError: There are some, or there is no linear.
    """
    found = linears(layers)
    if not found:
        received = "layers without torch's Linear (GPT-2 has Conv1D, some experts are one block)"
        raise ModelError("--to gptq", received, "a model like Llama's", "use --to gguf or --to merged")
    each = 32 // how.bits
    for name, linear in found.items():
        if linear.in_features % how.group_size or linear.in_features % each or linear.out_features % each:
            fits = [size for size in (128, 64, 32, 16) if all(m.in_features % size == 0 for m in found.values())]
            received = f"{name} with {linear.in_features} inputs and {linear.out_features} outputs"
            fix = f"group_size={fits[0]}" if fits else "use --to gguf"
            raise ModelError(
                "--to gptq", received, f"multiples of the group_size, {how.group_size}, and of {each}", fix
            )


class _Seen(Exception):
    """Ends a forward pass."""


def _inputs(
    model: PreTrainedModel, layers: Any, rows: Sequence[Sequence[int]]
) -> tuple[list[torch.Tensor], list[list[Any]]]:
    """What enters the first layer for each row, and what else each layer is told for each row."""
    hidden: list[torch.Tensor] = []
    given: list[list[Any]] = []

    def note(module: nn.Module, args: Any, words: Any) -> None:
        if module is layers[0]:
            hidden.append(args[0] if args else words["hidden_states"])
            given.append([])
        given[-1].append((args[1:], {key: value for key, value in words.items() if key != "hidden_states"}))

    hooks = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in layers]
    try:
        model.eval()
        for row in rows:
            model(input_ids=torch.tensor(row, device=model.device)[None], use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return hidden, given


def _run(layer: nn.Module, hidden: torch.Tensor, given: Any) -> torch.Tensor:
    args, words = given
    found = layer(hidden, *args, **words)
    output: torch.Tensor = found[0] if isinstance(found, tuple) else found
    return output


def _same_input(layer: nn.Module, hidden: torch.Tensor, given: Any) -> list[list[str]]:
    """Names of the linears in the order of a pass, those together that read one tensor."""
    groups: list[list[str]] = []
    seen: list[torch.Tensor] = []  # held, so that no other tensor can have the same identity

    def note(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any) -> None:
            same = next((i for i, tensor in enumerate(seen) if tensor is args[0]), None)
            if same is None:
                seen.append(args[0])
                groups.append([name])
            elif name not in groups[same]:
                groups[same].append(name)

        return hook

    hooks = [linear.register_forward_pre_hook(note(name)) for name, linear in linears(layer).items()]
    try:
        _run(layer, hidden, given)
    finally:
        for hook in hooks:
            hook.remove()
    return groups


def _hessian(layer: nn.Module, name: str, hidden: list[torch.Tensor], given: list[Any]) -> torch.Tensor:
    """X^T X / n of a linear's inputs over all rows, float64 [K, K]; products are made in float32."""
    linear: Any = layer.get_submodule(name)
    total = torch.zeros(linear.in_features, linear.in_features, dtype=torch.float64, device=linear.weight.device)
    count = 0

    def note(_: nn.Module, args: Any) -> None:
        nonlocal count
        x = args[0].flatten(0, -2).float()
        total.add_(x.T @ x)
        count += len(x)
        raise _Seen

    hook = linear.register_forward_pre_hook(note)
    try:
        for x, words in zip(hidden, given, strict=True):
            try:
                _run(layer, x, words)
            except _Seen:
                continue
    finally:
        hook.remove()
    return total / max(1, count)
