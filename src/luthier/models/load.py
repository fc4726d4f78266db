# SPDX-License-Identifier: Apache-2.0
"""A folder or name -> tokenizer and model, weights from safetensors only, checked before anything is trained.

transformers is imported when a model is asked for: ``luthier --help`` stays quick.
"""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import ModelError
from luthier.models.bars import without_bars, without_report
from luthier.models.failures import EMBEDDED, cannot_load, load_errors
from luthier.models.heads import draw_head, may_be_drawn
from luthier.models.quantized import loading_words, quietly, settle_quantized
from luthier.models.tasks import auto_class, keep_names, renamed_keys, saved_for, settle_task
from luthier.models.threads import bound_caches
from luthier.models.values import settle_padding, value_head

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from luthier.core.tasks import Labels, Task
    from luthier.recipe.schema import Model

# Architectures whose attention is their own code and takes a whole [T, T] mask: slower, and memory grows with T^2.
DENSE = {"falcon": "sdpa", "gptj": "eager", "codegen": "eager"}


def locate(name_or_path: str, *, weights: bool = True) -> str:
    """Resolve `embedded`, a folder or a hub name to what transformers takes.

    Args:
        name_or_path: What the user gave.
        weights: Whether a folder must hold weights besides its configuration.

    Raises:
        ModelError: It looks like a path and is not there, or the folder holds no usable model.
    """
    if name_or_path in EMBEDDED:
        return str(Path(__file__).parent / "embedded" / EMBEDDED[name_or_path])
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        _check_folder(path, weights)
        return str(path)
    if path.exists():
        fix = "name the folder that holds config.json"
        raise ModelError(f"model {name_or_path}", "a file", "a transformers folder", fix)
    if name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") > 1:
        allowed = "a transformers folder, a hub name, or 'embedded'"
        raise ModelError(f"model {name_or_path}", "no such folder", allowed, "check the path")
    return name_or_path


def _check_folder(path: Path, weights: bool) -> None:
    where = f"model {path}"
    files = {file.name for file in path.iterdir()}
    if files & {"adapter_config.json", "luthier_adapter.json"} and "config.json" not in files:
        raise ModelError(
            where,
            "an adapter folder, not a model",
            "a folder with config.json and *.safetensors",
            "name its base in model.model_name_or_path and this folder in model.adapter_name_or_path",
        )
    if "adapter_config.json" in files:
        raise ModelError(
            where,
            "a model and an adapter in one folder",
            "one of them: transformers would put the adapter into the model in silence",
            "move adapter_config.json and adapter_model.safetensors to a folder of their own",
        )
    if "config.json" not in files:
        fix = "convert the model with its publisher's script"
        raise ModelError(where, "no config.json", "a transformers folder", fix)
    if weights and not any(name.endswith(".safetensors") for name in files):
        pickles = sorted(n for n in files if n.endswith((".bin", ".pt", ".pth", ".ckpt")))
        if pickles:
            raise ModelError(
                where,
                f"weights as pickle only ({', '.join(pickles[:3])})",
                "safetensors: a pickle can run code when it is opened",
                "convert it once in a place you trust: AutoModelForCausalLM.from_pretrained(...).save_pretrained(...)",
            )
        raise ModelError(where, "no weights", "at least one *.safetensors file", "download the whole model folder")


def load_tokenizer(
    name_or_path: str, revision: str | None = None, trust_remote_code: bool = False, *, alone: bool = False
) -> PreTrainedTokenizerBase:
    """Load the fast tokenizer of a model.

    Args:
        name_or_path: A folder, a hub name, or `embedded`.
        revision: Hub revision.
        trust_remote_code: Run code that comes with the tokenizer.
        alone: Whether a folder may hold the tokenizer and no model, or only a part of one.

    Raises:
        ModelError: There is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    folder = Path(name_or_path).expanduser()
    bare = alone and (folder / "tokenizer.json").is_file() and not (folder / "config.json").exists()
    place = str(folder) if bare else locate(name_or_path, weights=not alone)
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, revision=revision, trust_remote_code=trust_remote_code)
    except load_errors() as error:
        raise cannot_load(name_or_path, "tokenizer", error) from error
    if not tokenizer.is_fast:
        raise ModelError(f"tokenizer {name_or_path}", "a slow tokenizer", "a tokenizer.json (fast tokenizer)")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # only generation pads, and there the mask hides it
    return tokenizer


def load_config(
    name_or_path: str, revision: str | None = None, trust_remote_code: bool = False, *, weights: bool = True
) -> PretrainedConfig:
    """Load a model's configuration.

    Args:
        name_or_path: A folder, a hub name, or `embedded`.
        revision: Hub revision.
        trust_remote_code: Run code that comes with the model.
        weights: Whether a folder must hold weights besides.

    Raises:
        ModelError: There is none, or it cannot be read.
    """
    from transformers import AutoConfig

    place = locate(name_or_path, weights=weights)
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(
            place, revision=revision, trust_remote_code=trust_remote_code
        )
    except load_errors() as error:
        raise cannot_load(name_or_path, "model", error) from error
    return config


def load_model(  # noqa: PLR0913 - what a recipe says of a model, and of its head
    model: Model,
    dtype: torch.dtype,
    *,
    attention: str = "luthier",
    task: Task | None = "CAUSAL_LM",
    num_labels: int | None = None,
    labels: Labels | None = None,
    seed: int = 0,
    whole: Collection[str] = (),
    say: Callable[[str], None] | None = None,
) -> PreTrainedModel:
    """Load a model for training.

    Args:
        model: The recipe's section.
        dtype: Of all weights.
        attention: `luthier` runs forests (a few old architectures keep theirs and get it as a whole mask: `DENSE`).
        task: What the model is for; its head is the checkpoint's or a new one. None: what the checkpoint was saved for.
        num_labels: Values of that head; by default what the checkpoint has, and 1 of a new one, drawn from `seed`.
        labels: Names of these values, which are written into the model's configuration.
        seed: See there.
        whole: Name endings of modules that a quantised base keeps as they are (`modules_to_save`).
        say: Receives a line about weights in the checkpoint that the model has no place for, and about a new head;
            logged by default.

    Raises:
        ModelError: The folder is not usable for the task, or holds only a part of the weights.
    """
    from luthier.models.planted import RUNNABLE  # the import also registers the attention

    bound_caches()
    name, say = model.model_name_or_path, say or logging.getLogger("luthier.models").warning
    config = load_config(name, model.model_revision, model.trust_remote_code)
    task = settle_task(name, config, task, num_labels, labels)
    new_head = task not in ("CAUSAL_LM", "SEQ_2_SEQ_LM") and saved_for(config) != task
    chosen: str | None = attention
    if attention == "luthier":  # an encoder-decoder runs on transformers' own: its pass is padded
        chosen = None if task == "SEQ_2_SEQ_LM" else DENSE.get(config.model_type, attention)
    words: dict[str, Any] = {"revision": model.model_revision, "trust_remote_code": model.trust_remote_code}
    words |= {"dtype": dtype, "attn_implementation": chosen, "use_safetensors": True, "output_loading_info": True}
    renamed = renamed_keys(config, task)
    words |= {"key_mapping": renamed} | loading_words(model, config, auto_class(task), whole)
    try:
        with without_bars(), without_report(new_head), quietly():
            loaded, found = auto_class(task).from_pretrained(locate(name), config=config, **words)
    except load_errors() as error:
        if isinstance(error, KeyError) and error.args == ("luthier",):  # a table of its own attention classes
            found = f"{config.model_type}: its attention is code of its own, which takes no forest"
            raise ModelError(f"model {name}", found, RUNNABLE, "choose such a model") from None
        raise cannot_load(name, "model", error) from error
    if renamed:
        keep_names(loaded, renamed)
    settle_quantized(loaded, model, dtype)
    lacking = may_be_drawn(loaded, found["missing_keys"]) if task != "CAUSAL_LM" else set()
    lacking = lacking if new_head else {key for key in lacking if task == "FEATURE_EXTRACTION"}
    _check_complete(name, found, say, lacking)
    draw_head(loaded, lacking, name, seed, say)
    settle_padding(loaded, name, say)
    return loaded


def _check_complete(name: str, found: dict[str, Any], say: Callable[[str], None], drawn: set[str]) -> None:
    """Weights that the checkpoint lacks were drawn at random: never train on those in silence, but for `drawn`."""
    lacking = sorted({*found["missing_keys"]} - drawn)
    if lacking:
        raise ModelError(
            f"model {name}",
            f"{len(lacking)} weights are missing in the checkpoint ({_some(lacking)})",
            "a checkpoint with every weight: transformers would draw these at random",
            "download the whole folder again, or ask its publisher for the complete model",
        )
    left = sorted(found["unexpected_keys"])
    if left:
        count = f"{len(left)} weight{'s' if len(left) > 1 else ''}"
        say(f"model {name}: the checkpoint holds {count} that the model has no place for; left out ({_some(left)})")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")


@cache
def bf16_is_fast(device: str = "cpu") -> bool:
    """Whether this machine multiplies bfloat16 in hardware (avx512_bf16, AMX, or a GPU that has it)."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def sixteen_bits(model: PreTrainedModel) -> PreTrainedModel:
    """The model that a quantised one was made from, loaded again from its checkpoint, on the CPU."""
    plain = {"quantization": "none", "bnb_4bit_use_double_quant": False}
    section: Any = model.base_section
    words: Any = {"task": "CAUSAL_LM" if value_head(model) is None else "SEQ_CLS", "say": lambda _: None}
    return load_model(section.model_copy(update=plain), "auto", attention="eager", **words)  # type: ignore[arg-type]
