# SPDX-License-Identifier: Apache-2.0
"""LLaMA-Adapter: prompts that attention sees through gates which start at zero; PEFT's ADAPTION_PROMPT.

    attention(Q, K, V) + g softmax(Q K_p^T / sqrt(D)) V_p        K_p, V_p: the prompt through the layer's own k and v

A prompt [n, W] and a gate g of each layer train. The prompt has a softmax of its own, so with g = 0 the model is its
base, and words lose no attention to it; a prompt in the same softmax is `prefix`.

Reference:
    Zhang et al., LLaMA-Adapter: Efficient Fine-tuning of Language Models with Zero-init Attention, arXiv 2303.16199,
    section 3.2.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field

from luthier.core.errors import ModelError, RecipeError, UserError
from luthier.core.trainable import ParameterGroup, Trainable
from luthier.methods import _peft
from luthier.methods._beside import copy_whole, find_whole, inside, swapped_back, whole_parameters, whole_tensors
from luthier.methods._keys import Words
from luthier.methods._lowrank import switched_off
from luthier.methods._updates import config_of
from luthier.models.adaption import AdaptionPrompt, attach, reads_prompts
from luthier.models.backbone import serving
from luthier.models.layers import find_layers
from luthier.models.planted import NAME as ATTENTION
from luthier.models.probe import prove_forest
from luthier.models.source_target import is_encoder_decoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from torch import nn
    from transformers import PreTrainedModel

PEFT_TYPE = "ADAPTION_PROMPT"
ALONE = "reads prompts of its own inside the attention, which sees the whole batch"  # why it does not share its base
LEAVES_BASE = True  # served, others may stand on the same base
_KEYS = ("adapter_len", "adapter_layers")


class Config(BaseModel):
    """The keys of LLaMA-Adapter, spelt as in PEFT."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", use_attribute_docstrings=True)

    adapter_len: Annotated[int, Field(gt=0)] = 10
    """Tokens of each layer's prompt."""
    adapter_layers: Annotated[int | None, Field(gt=0)] = None
    """How many of the last layers get a prompt; left out: all."""
    modules_to_save: Words = ()
    """Name endings of modules that train whole, saved along: `[lm_head]`; a head of values always is one."""


def apply(model: PreTrainedModel, config: Config) -> Trainable:
    """Freeze the model and let the attention of its last layers see prompts.

    Args:
        model: Loaded by :func:`luthier.models.load_model`; changed in place.
        config: The recipe's section.

    Returns:
        Its `merge()` raises UserError: a softmax has no place in the weights.

    Raises:
        RecipeError: There are fewer layers, or a prompt stands in a module that trains whole.
        ModelError: The layers' attention cannot read prompts. The model is then as it was.

    Reference:
        Zhang et al., arXiv 2303.16199, section 3.2.
    """
    return _rewire(model, config, find_whole(model, config.modules_to_save))


def load_peft(model: PreTrainedModel, given: Mapping[str, Any], where: str) -> Trainable:
    """Rewire a model as a PEFT configuration says; prompts and gates are filled in afterwards.

    Raises:
        ModelError: It has keys that are not known here, or does not fit the model.
    """
    _peft.refuse_keys(given, (*_KEYS, "target_modules", "modules_to_save"), "LLaMA-Adapter", where)
    words = given.get("modules_to_save") or ()
    try:
        config = config_of(Config, given, _KEYS, where, modules_to_save=tuple(words))
        sites = _sites(model, config)
        if (name := sites[0].rpartition(".")[2]) != given["target_modules"]:
            received = f"target_modules: {given['target_modules']!r}"
            raise ModelError(where, received, f"{name!r}, this model's attention", "give the base it was trained on")
        return _rewire(model, config, find_whole(model, config.modules_to_save))
    except RecipeError as error:
        raise ModelError(where, error.received, "the base it was trained on", "give that base") from None


def _sites(model: PreTrainedModel, config: Config) -> list[str]:
    """Whole names of the attention modules that get a prompt.

    Raises:
        RecipeError: There are fewer layers than `adapter_layers`.
        ModelError: A layer has no attention that can read prompts.
    """
    if is_encoder_decoder(model):
        received, allowed = "an encoder-decoder, two of whose attentions see other texts", "a decoder"
        raise ModelError(f"model {type(model).__name__}", received, allowed, "choose prefix or lora")
    where, count = find_layers(model, "method.name")
    wanted = count if config.adapter_layers is None else config.adapter_layers
    if wanted > count:
        fix = "lower it, or leave it out for all layers"
        raise RecipeError("method.adapter_layers", f"{wanted} of {count} layers", f"1 to {count}", fix)
    sites = []
    for number in range(count - wanted, count):
        layer = model.get_submodule(f"{where}.{number}")
        found = [name for name, module in layer.named_children() if reads_prompts(module)]
        if len(found) != 1:
            received = f"{where}.{number}, a {type(layer).__name__}, with keys and values from elsewhere"
            allowed = "attention with k_proj and v_proj, or as in GPT-2, GPT-NeoX and Phi-3"
            raise ModelError(f"model {type(model).__name__}", received, allowed, "choose prefix or lora")
        sites.append(f"{where}.{number}.{found[0]}")
    return sites


def _rewire(model: PreTrainedModel, config: Config, whole: dict[str, nn.Module]) -> Trainable:
    sites = _sites(model, config)
    if taken := next((site for site in sites if inside(site, whole)), None):
        received = f"{taken}, where a prompt stands"
        raise RecipeError("method.modules_to_save", received, "modules besides", "leave one of them out")
    prompts = _attached(model, sites, config.adapter_len)
    model.requires_grad_(False)
    swaps = copy_whole(model, whole)
    parameters = {f"{site}.{key}": p for site, prompt in prompts.items() for key, p in prompt.named_parameters()}
    parameters |= whole_parameters(model, whole)
    for parameter in parameters.values():
        parameter.requires_grad_(True)

    def save(folder: Path) -> None:
        every = [name for name, _ in model.named_modules() if name]
        told = {"peft_type": PEFT_TYPE, **_peft.describe(model), "target_modules": sites[0].rpartition(".")[2]}
        told |= {"adapter_len": config.adapter_len, "adapter_layers": len(sites)}
        if whole:  # no key of PEFT's class for these adapters, which passes it over
            told["modules_to_save"] = _peft.whole_words(whole, every)
        _peft.write_folder(folder, told, whole_tensors(model, whole) | parameters)

    def merge() -> nn.Module:
        raise UserError(
            "merge",
            "prompts of LLaMA-Adapter, which attention sees through a softmax of their own",
            "methods that fold into weights: lora, vera, loha, lokr, ia3, norm, bitfit",
            "keep the adapter beside its base: `luthier generate` and `luthier evaluate` load it so",
        )

    @contextmanager
    def disabled() -> Iterator[None]:
        with switched_off(prompts.values()), swapped_back(swaps):
            yield

    return Trainable(
        model=model,
        groups=(ParameterGroup(parameters=parameters),),
        folder="adapter",
        save=save,
        merge=merge,
        disabled=disabled,
    )


def _attached(model: PreTrainedModel, sites: list[str], length: int) -> dict[str, AdaptionPrompt]:
    """Prompts at these modules, proven.

    Raises:
        ModelError: The model does not run with them; it is then as it was.
    """
    late = model.config.get_text_config().model_type == "gpt2"  # PEFT adds the term past its last linear
    prompts: dict[str, AdaptionPrompt] = {}
    undo: list[Callable[[], None]] = []
    try:
        for site in sites:
            prompts[site], back = attach(model.get_submodule(site), length, late)
            undo.append(back)
        _prove(model, prompts)
    except ModelError:
        for back in undo:
            back()
        raise
    return prompts


@torch.no_grad()
def _prove(model: PreTrainedModel, prompts: dict[str, AdaptionPrompt]) -> None:
    """Prove that every prompt is seen, before words and before a forest with the same result; its gate is open then.

    Raises:
        ModelError: One is not, or a forest differs from separate forwards.
    """
    where, fix = f"model {type(model).__name__}", "choose prefix or lora"
    ids = torch.full((1, 2), 1, device=model.device)
    for prompt in prompts.values():
        prompt.adaption_gate.fill_(1.0)
        prompt.asked = False
    try:
        with serving(model):
            model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        if missed := next((site for site, prompt in prompts.items() if not prompt.asked), None):
            received = f"{missed} does not ask its configuration for the attention"
            raise ModelError(where, received, "attention that goes through transformers' interface", fix)
        if model.config._attn_implementation == ATTENTION:
            prove_forest(model, model.config._name_or_path)
    except ModelError:
        raise
    except (ValueError, TypeError, RuntimeError, AttributeError, LookupError) as error:
        raise ModelError(where, f"it does not take these prompts ({str(error)[:200]})", fix=fix) from error
    finally:
        for prompt in prompts.values():
            prompt.adaption_gate.zero_()
