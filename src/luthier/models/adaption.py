# SPDX-License-Identifier: Apache-2.0
"""Adaption prompts: trained vectors that attention sees beside its tokens, with a softmax and a gate of their own.

    attention(Q, K, V) + g softmax(Q K_p^T / sqrt(D)) V_p        K_p, V_p: the prompt through the layer's own k and v

The query is the one that the layer asks its tokens with, so the term is added where transformers hands queries to an
attention function: the layer's module reads a configuration that names this function, which calls the one that was
named before and adds. So it is one code for a forest, a plain forward and a step of `generate`; a token's term hangs
on its own query alone, whoever else is in the batch.

Shapes: B rows, L tokens of a row, H query heads, G key heads, D head size, n prompt tokens, W hidden.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.pytorch_utils import Conv1D

from luthier.models.planted import Attended, planted_now

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "luthier_adaption"
CHILD = "adaption"  # the prompt's name in its attention module


class AdaptionPrompt(nn.Module):
    """One layer's prompt and gate.

    Args:
        attention: The layer's attention module; see :func:`reads_prompts`.
        length: n.
        late: Whether the term is added behind the attention module, past its last linear: PEFT does so for GPT-2.

    Attributes:
        active: Off, the layer computes what it does without.
        asked: Whether the attention has come by since it was set to False.
    """

    def __init__(self, attention: nn.Module, length: int, late: bool = False) -> None:
        super().__init__()
        self.reader, self.late = (attention,), late  # in a tuple: the prompt stands in the module, not around it
        self.active, self.asked = True, False
        self.waiting: torch.Tensor | None = None
        weight = _readers(attention)[0][0]
        # float32 also beside a bfloat16 base: updates below 2^-8 of a number would vanish otherwise.
        how: Any = {"dtype": torch.promote_types(weight.dtype, torch.float32), "device": weight.device}
        self.adaption_prompt = nn.Parameter(torch.randn(1, length, weight.shape[1], **how))
        self.adaption_gate = nn.Parameter(torch.zeros(1, **how))

    def term(self, query: torch.Tensor, scaling: float) -> torch.Tensor:
        """g softmax(Q K_p^T scaling) V_p, [B, L, H, D].

        Args:
            query: As the layer asks its tokens, [B, H, L, D].
            scaling: Of its scores.
        """
        key, value = self._read(query.dtype, query.shape[-1])
        groups = query.shape[1] // key.shape[0]
        key, value = key.repeat_interleave(groups, 0), value.repeat_interleave(groups, 0)
        if (now := planted_now()) is not None:
            now.attended.append(
                Attended(
                    heads=query.shape[1],
                    key_size=key.shape[-1],
                    value_size=value.shape[-1],
                    query_trains=query.requires_grad,
                    key_trains=key.requires_grad,
                    value_trains=value.requires_grad,
                    apart=key.shape[1],
                )
            )
        seen = torch.softmax(scaling * (query @ key.transpose(-1, -2)), -1, dtype=torch.float32)
        return ((self.adaption_gate * seen).to(query.dtype) @ value).transpose(1, 2)

    def pass_products(self) -> int:
        """Multiply-adds of reading keys and values from the prompt, forward and backward (`engine.flops`)."""
        return 2 * self.adaption_prompt.shape[1] * sum(weight.numel() for weight, _ in _readers(self.reader[0]))

    def _read(self, dtype: torch.dtype, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """K_p and V_p, [G, n, D], by the layer's linears for both: neither rotated nor normed, as in PEFT."""
        prompt = self.adaption_prompt[0].to(dtype)
        key, value = (F.linear(prompt, weight, bias) for weight, bias in _readers(self.reader[0]))
        heads = key.shape[-1] // size
        return key.unflatten(-1, (heads, -1)).transpose(0, 1), value.unflatten(-1, (heads, -1)).transpose(0, 1)


class _Named:
    """A configuration that is what it stands for, but for the name of the attention."""

    _attn_implementation = NAME

    def __init__(self, behind: Any) -> None:
        self.behind = behind

    def __getattr__(self, name: str) -> Any:
        if name == "behind" or name.startswith("__"):  # while it is copied there is nothing behind it
            raise AttributeError(name)
        return getattr(self.behind, name)


def reads_prompts(attention: nn.Module) -> bool:
    """Whether a module is an attention whose keys and values can be read from a prompt.

    It has linears of their own for both (`k_proj`, `v_proj`), or one for queries, keys and values whose order is known
    (GPT-2, Phi-3, GPT-NeoX, Persimmon), and asks its configuration for the attention function.
    """
    return hasattr(attention, "config") and bool(_readers(attention))


def attach(attention: nn.Module, length: int, late: bool = False) -> tuple[AdaptionPrompt, Callable[[], None]]:
    """Let an attention module see a prompt.

    Args:
        attention: See :func:`reads_prompts`; changed in place.
        length: n.
        late: See :class:`AdaptionPrompt`.

    Returns:
        The prompt, and what takes it away again.
    """
    prompt = AdaptionPrompt(attention, length, late)
    return prompt, attach_to(attention, prompt)


def attach_to(attention: nn.Module, prompt: Any) -> Callable[[], None]:
    """Let an attention module see what stands for a prompt; returns what takes it away again."""
    module: Any = attention
    config = module.config
    module.add_module(CHILD, prompt)
    module.config = _Named(config)
    hook = module.register_forward_hook(_behind) if prompt.late else None

    def undo() -> None:
        delattr(module, CHILD)
        module.config = config
        if hook is not None:
            hook.remove()

    return undo


def _behind(attention: Any, _: Any, output: Any) -> Any:
    prompt: Any = getattr(attention, CHILD)
    waiting, prompt.waiting = prompt.waiting, None
    return output if waiting is None else (output[0] + waiting, *output[1:])


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    **other: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What transformers calls: [B, H, L, D] in, [B, L, H, D] out."""
    prompt: Any = getattr(module, CHILD)
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    function: Any = ALL_ATTENTION_FUNCTIONS.get_interface(module.config.behind._attn_implementation, eager)
    out, weights = function(module, query, key, value, attention_mask, scaling=scaling, **other)
    prompt.asked = True
    if prompt.active:
        term = prompt.term(query, query.shape[-1] ** -0.5 if scaling is None else scaling)
        if prompt.late:
            prompt.waiting = term.flatten(-2)
        else:
            out = out + term
    return out, weights


def _readers(attention: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    """Matrix [N, W] and bias of keys and of values; none where they are not known."""
    pair: list[Any] = [getattr(attention, name, None) for name in ("k_proj", "v_proj")]
    if all(isinstance(linear, nn.Linear) for linear in pair):
        return [(linear.weight, linear.bias) for linear in pair]
    return _parts(attention)


def _parts(attention: Any) -> list[tuple[Any, Any]]:
    """The same, cut out of one linear for queries, keys and values."""
    names, kind = ("c_attn", "qkv_proj", "query_key_value"), type(attention).__name__
    whole: Any = next((found for name in names if (found := getattr(attention, name, None)) is not None), None)
    if isinstance(whole, Conv1D) and whole.nf == 3 * whole.nx:  # GPT-2: all queries, all keys, all values
        return [(whole.weight.T.chunk(3)[i], whole.bias.chunk(3)[i]) for i in (1, 2)]
    if not isinstance(whole, nn.Linear):
        return []
    bias = whole.bias
    if kind == "Phi3Attention":  # the same, with fewer keys and values
        size = attention.head_dim * attention.config.num_key_value_heads
        sizes = [whole.out_features - 2 * size, size, size]
        return [(whole.weight.split(sizes)[i], None if bias is None else bias.split(sizes)[i]) for i in (1, 2)]
    if kind in ("GPTNeoXAttention", "PersimmonAttention"):  # head by head: its query, key and value
        cut = (attention.config.num_attention_heads, 3, -1)
        each = [None if one is None else one.unflatten(0, cut) for one in (whole.weight, bias)]
        return [tuple(None if one is None else one[:, i].flatten(0, 1) for one in each) for i in (1, 2)]  # type: ignore[misc]
    return []


AttentionInterface.register(NAME, _attend)
