# SPDX-License-Identifier: Apache-2.0
"""What methods of virtual tokens share: how they are put before a model, written as PEFT's folder, and read again.

PEFT's file holds the vectors alone. Where they are computed by an encoder that trains (P-tuning, prefix tuning with a
projection), the encoder is kept beside it in a file of its own, so that training can go on; PEFT passes it over.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import nn

from luthier.core.errors import ModelError, RecipeError, UserError
from luthier.core.trainable import ParameterGroup, Trainable
from luthier.methods import _peft
from luthier.methods._beside import copy_whole, find_whole, swapped_back, whole_parameters
from luthier.models.backbone import serving
from luthier.models.encoders import reads_both_ways
from luthier.models.load import DENSE
from luthier.models.planted import NAME as ATTENTION
from luthier.models.probe import prove_forest
from luthier.models.source_target import is_encoder_decoder, target_layers
from luthier.models.virtual import EMBEDDINGS, ENCODER_FILE, NAME, VirtualTokens, lay_before, virtual_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from transformers import PreTrainedModel

PREFIX = "base_model."  # nothing wraps the model inside PEFT's here, so names are shorter than LoRA's
ALONE = "puts virtual tokens before every tree of a batch"  # why it does not share its base with other runs
LEAVES_BASE = True  # served, others may stand on the same base

# Keys that change nothing here; `inference_mode` and the starts say how training began.
_KNOWN = """peft_type peft_version task_type auto_mapping base_model_name_or_path revision inference_mode runtime_config
    num_virtual_tokens token_dim num_transformer_submodules num_attention_heads num_layers modules_to_save
    prompt_tuning_init prompt_tuning_init_text tokenizer_name_or_path tokenizer_kwargs init_weights prefix_projection
    encoder_reparameterization_type encoder_hidden_size encoder_num_layers encoder_dropout""".split()


class PromptEmbeddings(nn.Module):
    """The vectors themselves, [n, W]; nothing computes them.

    Args:
        vectors: All that a file holds.
        read: n, where that is fewer: PEFT keeps as many again for decoders with a source, which nobody reads.
    """

    def __init__(self, vectors: torch.Tensor, read: int | None = None) -> None:
        super().__init__()
        self.prompt_embeddings, self.read = nn.Parameter(vectors), read

    def forward(self) -> torch.Tensor:
        """[n, W]."""
        return self.prompt_embeddings[: self.read]


def width_of(model: PreTrainedModel) -> int:
    """Numbers of one embedding."""
    return int(model.get_input_embeddings().weight.shape[1])


def wide(model: PreTrainedModel) -> dict[str, Any]:
    """Type and device of what trains: float32 also before a bfloat16 model, where small steps would vanish."""
    weight: Any = model.get_input_embeddings().weight
    return {"dtype": torch.promote_types(weight.dtype, torch.float32), "device": weight.device}


def train_virtual(model: PreTrainedModel, virtual: VirtualTokens, told: Mapping[str, Any]) -> Trainable:
    """Freeze a model and put virtual tokens before everything that it is asked.

    Args:
        model: The plain base; changed in place. A head of values trains besides, whole, as in PEFT.
        virtual: What trains.
        told: The method's own part of adapter_config.json, with `peft_type`.

    Raises:
        ModelError: The model has virtual tokens already, or cannot have some; it is then as it was.
    """
    whole = find_whole(model, ())
    undo = lay_before(model, virtual)
    try:
        _prove(model)
    except ModelError:
        undo()
        raise
    model.requires_grad_(False)
    swaps = copy_whole(model, whole)
    parameters = _own(virtual) | whole_parameters(model, whole)
    for parameter in parameters.values():
        parameter.requires_grad_(True)

    def save(folder: Path) -> None:
        tensors = {f"{PREFIX}{n}.{k}": t for n in whole for k, t in model.get_submodule(n).state_dict().items()}
        _write(folder / "adapter_model.safetensors", {EMBEDDINGS: _vectors(virtual), **tensors})
        if EMBEDDINGS not in parameters:
            _write(folder / ENCODER_FILE, _own(virtual))
        config = {**told, **_peft.describe(model), **_shape(model, virtual), "modules_to_save": sorted(whole) or None}
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def merge() -> nn.Module:
        raise UserError(
            f"an adapter of kind {told['peft_type']}",
            "virtual tokens stand before the text; there is no weight to add them to",
            "lora or full, which can be merged",
            "serve the base with this adapter (PEFT's folder)",
        )

    @contextmanager
    def disabled() -> Iterator[None]:
        was, virtual.active = virtual.active, False
        try:
            with swapped_back(swaps):
                yield
        finally:
            virtual.active = was

    return Trainable(
        model=model,
        groups=(ParameterGroup(parameters=parameters),),
        folder="adapter",
        save=save,
        merge=merge,
        disabled=disabled,
        starts_as_base=False,
    )


def load_virtual(
    model: PreTrainedModel, given: Mapping[str, Any], where: str, shape: tuple[int, int, int]
) -> Trainable:
    """Put the virtual tokens of a PEFT configuration before a model; their numbers are filled in afterwards.

    Args:
        model: The plain base.
        given: adapter_config.json.
        where: The folder, for messages.
        shape: Numbers of one vector in this model, and for prefix tuning key heads and head size (else 0).

    Raises:
        ModelError: A key is not known, or the base is another one.
    """
    for key, value in given.items():
        if key not in _KNOWN and value:
            raise ModelError(
                where, f"{key}: {json.dumps(value, default=str)[:80]}", "the keys of PEFT 0.21", "remove it"
            )
    length, (width, heads, size) = given.get("num_virtual_tokens"), shape
    if not isinstance(length, int) or length < 1:
        raise ModelError(where, f"num_virtual_tokens: {length!r}", "1 or more", "mend adapter_config.json")
    stacks = given.get("num_transformer_submodules") or 1
    if stacks not in ((1, 2) if is_encoder_decoder(model) else (1,)):
        raise ModelError(where, "virtual tokens of an encoder and a decoder", "those of a causal language model")
    if heads and given.get("num_attention_heads") not in (None, heads):
        received = f"{given['num_attention_heads']} heads of keys, the model {heads}"
        raise ModelError(where, received, "the base it was trained on", "give that base")
    held = length if heads else length * stacks
    encoder = PromptEmbeddings(torch.zeros(held, width, **wide(model)), length)
    kept = {key: given[key] for key in _KNOWN if key in given}
    return train_virtual(model, VirtualTokens(encoder, length, (heads, size) if heads else None), kept)


def check_computed(model: nn.Module, given: Mapping[str, Any], where: str, encoder_file: Path) -> None:
    """Refuse to go on with an encoder from a folder that holds only the vectors which it gave.

    Raises:
        RecipeError: An encoder trains here, and the folder has none.
    """
    virtual = virtual_of(model)
    if virtual is not None and EMBEDDINGS not in _own(virtual) and not encoder_file.exists():
        raise RecipeError(
            "model.adapter_name_or_path",
            f"{where} holds {given.get('num_virtual_tokens')} vectors, and not the encoder that gave them",
            f"a folder with {ENCODER_FILE}",
            "go on without an encoder: method prompt, or prefix without prefix_projection",
        )


def _prove(model: PreTrainedModel) -> None:
    """Prove that the model takes virtual tokens: before words, and before a forest with the same result.

    Some architectures do more to keys and values than to put them into attention and cache (DiffLlama, JetMoE).

    Raises:
        ModelError: It does not.
    """
    ids = torch.full((1, 2), 1, device=model.device)
    try:
        words: dict[str, Any] = {} if reads_both_ways(model) else {"use_cache": False}
        with serving(model):
            words |= {"decoder_input_ids": ids} if is_encoder_decoder(model) else {}
            model(input_ids=ids, attention_mask=torch.ones_like(ids), **words)
        known = model.config._attn_implementation == ATTENTION or model.config.model_type in DENSE
        if known or is_encoder_decoder(model):
            prove_forest(model, model.config._name_or_path)
    except ModelError as error:
        received = f"it does not take these virtual tokens ({error.received})"
        allowed = "architectures where they change a forest as they change each text alone"
        raise ModelError(f"model {type(model).__name__}", received, allowed, "choose prompt or lora") from error


def _own(virtual: VirtualTokens) -> dict[str, nn.Parameter]:
    """What trains, by its name in the checkpoint."""
    own = dict(virtual.encoder.named_parameters())
    return own if EMBEDDINGS in own else {f"{NAME}.{name}": parameter for name, parameter in own.items()}


@torch.no_grad()
def _vectors(virtual: VirtualTokens) -> torch.Tensor:
    """The vectors as they are served: without dropout."""
    was_training = virtual.training
    virtual.eval()
    vectors = virtual()
    virtual.train(was_training)
    return vectors


def _write(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_file(copies, path, metadata={"format": "pt"})


def _shape(model: PreTrainedModel, virtual: VirtualTokens) -> dict[str, Any]:
    """PEFT's keys that say how the vectors are cut; of a prefix, by key heads."""
    text: Any = model.config.get_text_config()
    heads, width = text.num_attention_heads, width_of(model)
    if virtual.heads is not None:
        heads, width = virtual.heads[0], virtual.heads[0] * virtual.heads[1]
    return {
        "num_virtual_tokens": virtual.length,
        "token_dim": width,
        "num_transformer_submodules": 2 if is_encoder_decoder(model) and virtual.heads is not None else 1,
        "num_attention_heads": heads,
        "num_layers": target_layers(text) if is_encoder_decoder(model) else text.num_hidden_layers,
    }
