# SPDX-License-Identifier: Apache-2.0
"""What the user names -> the adapter folder, its base, and the recipe where there is one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import ModelError, UserError
from luthier.export.adapter import TASKS, head_in, is_adapter, read_config
from luthier.models.failures import EMBEDDED
from luthier.models.load import load_model, locate
from luthier.models.quantized import read_record
from luthier.recipe import Model, Recipe, load_recipe

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from transformers import PreTrainedModel

    from luthier.core.tasks import Task


@dataclass(frozen=True, kw_only=True)
class Origin:
    """An adapter and where it comes from.

    Attributes:
        adapter: Its folder.
        config: Its adapter_config.json or luthier_adapter.json.
        model: The base, as a recipe's section.
        recipe: The run's recipe, or None for a folder of unknown origin.
        run: The run folder, or None.
        whole: Whether `adapter` is no adapter but a whole model, which is its own base.
    """

    adapter: Path
    config: dict[str, Any]
    model: Model
    recipe: Recipe | None = None
    run: Path | None = None
    whole: bool = False

    @property
    def inputs(self) -> Sequence[Path]:
        """Folders that an export reads and must never replace."""
        base = Path(locate(self.model.model_name_or_path))
        return [self.adapter, base] if base.is_dir() else [self.adapter]

    @property
    def task(self) -> Task | None:
        """What its base is loaded for; adapters of unknown origin may not say it, but then hold its head, or none."""
        told, head = self.config.get("task_type"), head_in(self.adapter)
        if told in TASKS:
            return told
        if head is None:
            return None  # what the base was saved for
        return "QUESTION_ANS" if head[0] == "qa_outputs" else "SEQ_CLS"

    def load_base(self, dtype: torch.dtype, attention: str = "luthier") -> PreTrainedModel:
        """Load the plain base for the adapter's task; a head of values is the base's, or waits for the adapter's.

        Args:
            dtype: Of all weights.
            attention: As in :func:`luthier.models.load_model`.

        Raises:
            ModelError: It cannot be loaded.
        """
        whole = self.config.get("modules_to_save") or self.config.get("config", {}).get("modules_to_save") or ()
        if self.task == "CAUSAL_LM":
            return load_model(self.model, dtype, attention=attention, whole=whole)
        # Quietly: a head that is drawn here is filled by the adapter, or the adapter is refused.
        head = head_in(self.adapter)
        words: dict[str, Any] = {"task": self.task, "num_labels": head and head[1], "say": lambda _: None}
        return load_model(self.model, dtype, attention=attention, whole=whole, **words)

    def in_sixteen_bits(self) -> Origin:
        """The same adapter on the checkpoint that its quantised base was made from."""
        plain = {"quantization": "none", "bnb_4bit_use_double_quant": False}
        return replace(self, model=self.model.model_copy(update=plain))

    def beside(self, word: str) -> Path:
        """The default place of an export: inside its run, else beside the adapter."""
        adapter = self.adapter.resolve()
        return self.run / word if self.run else adapter.with_name(f"{adapter.name}-{word}")


def find_origin(source: str | Path, base: str | None = None) -> Origin:
    """Find the adapter that a run folder or an adapter folder holds.

    Args:
        source: A run folder, or a PEFT adapter folder of any origin.
        base: The base model, where it is not where the adapter says.

    Raises:
        UserError: There is no adapter: a plain model, an unfinished run, another kind of folder.
        ModelError: The base is not known or not there.
    """
    path = Path(source).expanduser()
    where = f"run or adapter {source}"
    if not path.is_dir():
        raise UserError(where, "no such folder", "a run folder or a PEFT adapter folder", "check the path")
    if path.name == "adapter" and (path.parent / "recipe.yaml").exists():
        path = path.parent
    run = path if (path / "recipe.yaml").exists() else None
    adapter = path / "adapter" if run else path
    if not is_adapter(adapter):
        raise _no_adapter(path, where)
    config = read_config(adapter)
    recipe = load_recipe(run / "recipe.yaml").recipe if run else None
    return Origin(adapter=adapter, config=config, model=_base(adapter, config, recipe, base), recipe=recipe, run=run)


def find_result(source: str | Path, base: str | None = None) -> Origin:
    """Find what a run, an adapter folder or a model's folder holds, be it an adapter or a whole model.

    Args:
        source: A run folder, an adapter folder of any origin, a transformers folder, or `embedded`.
        base: The base model, where it is not where the adapter says.

    Raises:
        UserError: There is neither, or a whole model and a base besides.
        ModelError: The base is not known or not there.
    """
    path = Path(locate(str(source))) if str(source) in EMBEDDED else Path(source).expanduser()
    if path.name == "model" and (path.parent / "recipe.yaml").exists():
        path = path.parent
    run = path if (path / "recipe.yaml").exists() else None
    model = path / "model" if run else path
    if is_adapter(path) or (path / "adapter").is_dir() or not (model / "config.json").exists():
        return find_origin(source, base)
    if base is not None:
        raise UserError("--base", f"{base}, for a whole model", "a base for an adapter", "leave it out")
    recipe = load_recipe(run / "recipe.yaml").recipe if run else None
    section = recipe.model if recipe else Model(model_name_or_path=str(model))
    section = section.model_copy(update={"model_name_or_path": str(model), "model_revision": None})
    return Origin(adapter=model, config={}, model=section, recipe=recipe, run=run, whole=True)


def _no_adapter(path: Path, where: str) -> UserError:
    allowed = "a run folder with adapter/, or a folder with adapter_config.json"
    if (path / "model" / "config.json").exists():
        received = "a run that trained the whole model: nothing to merge"
        return UserError(where, received, allowed, f"{path / 'model'} is a plain model already")
    if (path / "config.json").exists():
        return UserError(where, "a plain model: nothing to merge", allowed, "use it as it is")
    if (path / "recipe.yaml").exists():
        return UserError(where, "a run without a result yet", allowed, "finish it with `luthier train --resume`")
    return UserError(where, "neither a run nor an adapter", allowed, "check the path")


def _base(adapter: Path, config: dict[str, Any], recipe: Recipe | None, base: str | None) -> Model:
    named = config.get("base_model_name_or_path")
    quantized = read_record(adapter)
    if base is not None:
        return Model(model_name_or_path=base, **quantized)
    if recipe is not None:
        name = recipe.model.model_name_or_path
        moved = name not in EMBEDDED and not Path(name).expanduser().exists() and named and Path(named).is_dir()
        return recipe.model.model_copy(update={"model_name_or_path": named}) if moved else recipe.model
    where = f"adapter {adapter}"
    if not named:
        raise ModelError(where, "it names no base model", "base_model_name_or_path", "give the base with --base")
    if str(named).startswith((".", "/", "~")) and not Path(named).expanduser().is_dir():
        received = f"its base {named} is not on this machine"
        raise ModelError(where, received, "a folder or a hub name", "give it with --base")
    return Model(model_name_or_path=named, model_revision=config.get("revision"), **quantized)
