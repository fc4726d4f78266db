# SPDX-License-Identifier: Apache-2.0
"""Does a model read a source and write a target (`SEQ_2_SEQ_LM`)? Its configuration says so, before any weight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.core.errors import ModelError, RecipeError

if TYPE_CHECKING:
    from collections.abc import Collection

    from torch import nn
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from luthier.core.tasks import Task

_ENDINGS = ("ForConditionalGeneration", "MTModel")
ALLOWED = "an encoder-decoder of text (T5, mT5, UMT5, BART, mBART, Pegasus, Marian, M2M100, BlenderBot)"


def is_encoder_decoder(model: nn.Module) -> bool:
    """Whether a model reads a source and writes a target."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def refuse_unread(model: nn.Module, names: Collection[str], key: str) -> None:
    """Refuse modules that no text runs through: `shared` holds the embeddings' matrix, each stack has a module of it.

    Args:
        model: Any; only an encoder-decoder has such modules.
        names: What is to train.
        key: The recipe key that errors name.

    Raises:
        RecipeError: One of them is such a module: what trains there would change nothing.
    """
    if not is_encoder_decoder(model):
        return
    stacks: Any = model
    read = {id(m) for stack in (stacks.get_encoder(), stacks.get_decoder()) for m in stack.modules()}
    read.add(id(stacks.get_output_embeddings()))
    if unread := next((name for name in names if id(model.get_submodule(name)) not in read), None):
        received = f"{unread}, which nothing reads: encoder and decoder have modules of their own for its matrix"
        raise RecipeError(key, received, "modules that text runs through", "name embed_tokens, or lm_head")


def refuse_languages(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that marks the languages of source and target (mBART, NLLB): a recipe cannot name them.

    Raises:
        ModelError: It does.
    """
    if hasattr(tokenizer, "src_lang"):
        received = f"{type(tokenizer).__name__}, which marks each text with its language (src_lang, tgt_lang)"
        allowed = "a tokenizer of one language, or one whose sources say in words what is asked (T5)"
        fix = "write the codes into the rows and load the tokenizer with the class PreTrainedTokenizerFast"
        raise ModelError("the tokenizer", received, allowed, fix)


def target_layers(config: PretrainedConfig) -> int:
    """Layers of the decoder; families name them differently."""
    names = ("num_decoder_layers", "decoder_layers", "num_hidden_layers")
    return next(int(layers) for name in names if (layers := getattr(config, name, None)) is not None)


def writes_from_source(config: PretrainedConfig) -> bool:
    """Whether a checkpoint was saved as an encoder-decoder that writes text."""
    kinds = getattr(config, "architectures", None) or [""]
    return bool(config.is_encoder_decoder) and any(not kind or str(kind).endswith(_ENDINGS) for kind in kinds)


def settle_source_and_target(name: str, config: PretrainedConfig, task: Task) -> None:
    """Check that task and checkpoint agree: an encoder-decoder is for `SEQ_2_SEQ_LM`, and that for no other model.

    Args:
        name: What the user calls the model.
        config: Of the checkpoint.
        task: What it is to be loaded for.

    Raises:
        ModelError: They do not, transformers has no such class of it, or it does not say what targets begin with.
    """
    from transformers import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING

    where, kind = f"model {name}", (getattr(config, "architectures", None) or [type(config).__name__])[0]
    if task != "SEQ_2_SEQ_LM":
        fix = "set model.task_type to SEQ_2_SEQ_LM, or choose another model"
        raise ModelError(where, f"{kind}, an encoder-decoder, for {task}", "task SEQ_2_SEQ_LM", fix)
    if not config.is_encoder_decoder or type(config) not in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
        raise ModelError(where, f"{kind} for SEQ_2_SEQ_LM", ALLOWED, "choose such a model, or task CAUSAL_LM")
    if not writes_from_source(config):
        received = f"{kind}, whose head does not write text"
        raise ModelError(where, received, ALLOWED, "name the checkpoint that it was made from")
    wraps = config.model_type == "mbart"  # there the last token of each target, its language, comes first
    if getattr(config, "decoder_start_token_id", None) is None and not wraps:
        received, fix = "no decoder_start_token_id in its config.json", "write it there (T5: its pad token, BART: eos)"
        raise ModelError(where, received, "the token that targets begin with", fix)
