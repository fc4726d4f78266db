# SPDX-License-Identifier: Apache-2.0
"""In which forms what was trained leaves: every method and every task, proved, or refused in a sentence.

A new file in methods/ is tested here without an edit: what it cannot be written as, it has to say.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.contract.test_methods import KINDS, NEEDS, VARIANTS
from tests.encoders import encoder
from tests.encoders import folder_of as encoder_folder
from tests.pairs import save_words, tiny_pairs
from tests.reward import shake

from luthier.core import registry
from luthier.core.errors import LuthierError, ModelError, UserError
from luthier.core.tasks import Labels
from luthier.export.trained import Request
from luthier.models import load_model
from luthier.models.purpose import Purpose
from luthier.recipe import Model

LABELS = Labels(names=("red", "green", "blue"))
MERGED = {"merged", "gguf", "gptq"}
# What becomes of a decoder's result: of a whole model all but an adapter, of methods that are not here every form.
ADAPTERS_ALONE = {"prompt", "prefix", "ptuning", "llama_adapter"}  # their update has no place in the weights
BY_METHOD = {name: {"peft"} for name in ADAPTERS_ALONE} | {"adapter": set(), "bitfit": MERGED}
TASKS = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION", "SEQ_2_SEQ_LM")
BY_TASK = {"merged", "peft"}  # the other forms are of language models alone
# What a refusal has to name, by form.
WHY = {
    "merged": r"fold into weights|can be merged",
    "peft": r"PEFT does not have|a plain model",
    "gguf": r"fold into weights|can be merged|a model for \w+",
    "gptq": r"fold into weights|can be merged|a model for \w+",
}


def export(source: Path, form: str, output: Path):
    """Write one form; few bits are not held to their bound: these models are random."""
    module = registry.get("export.forms", form)
    keys = {"group_size": 32, "rows": 2} if form == "gptq" else {}
    words = {"bound": 10.0} if form == "gptq" else {}
    request = Request(source=source, output=output, say=lambda _: None, **words)
    return module.write(request, module.Config(**keys))


def check(source: Path, forms: set[str], asked: tuple[str, ...], output: Path) -> None:
    """Each asked form is written and proved, or refused in one line that says why, and nothing is left."""
    for form in asked:
        if form in forms:
            done = export(source, form, output / form)
            assert done.proof.holds
            assert (done.folder / "README.md").is_file()
            continue
        with pytest.raises((UserError, ModelError), match=WHY[form]) as refused:
            export(source, form, output / form)
        assert str(refused.value).count("\n") == 0
        assert refused.value.fix
        assert not (output / form).exists()


@pytest.mark.parametrize("name", KINDS)
def test_every_method(name, tiny_llama, tmp_path):
    method, keys = VARIANTS.get(name, (name, {}))
    module = registry.get("methods", method)
    model = load_model(Model(model_name_or_path=str(tiny_llama)), torch.float32)
    trainable = module.apply(model, module.Config(**keys, **NEEDS.get((name, "llama"), {})))
    shake(trainable.parameters().values(), 0.02)
    source = tmp_path / trainable.folder
    source.mkdir()
    trainable.save(source)
    for file in Path(tiny_llama).iterdir():
        if "token" in file.name or "template" in file.name:
            (source / file.name).write_bytes(file.read_bytes())
    forms = MERGED if trainable.folder == "model" else BY_METHOD.get(method, {*MERGED, "peft"})
    # Whatever is merged becomes the same plain model: one method shows that it leaves as GGUF and GPTQ too.
    rest = ("gguf", "gptq") if name in ("lora", "full") or "merged" not in forms else ()
    check(source, forms, ("merged", "peft", *rest), tmp_path / "out")


@pytest.mark.parametrize("task", TASKS)
def test_every_task(task, tmp_path):
    base = tmp_path / "base"
    if task == "SEQ_2_SEQ_LM":
        tiny_pairs("T5").save_pretrained(base)
        save_words(base, ["one two three four", "five six seven eight"])
        model = load_model(Model(model_name_or_path=str(base)), torch.float32, task=task)
    else:
        base = encoder_folder(tmp_path, "BERT")
        labels = {"labels": LABELS} if task in ("SEQ_CLS", "TOKEN_CLS") else {}
        model = encoder(base, task, **labels)
    lora = registry.get("methods", "lora")
    trainable = lora.apply(model, lora.Config(r=4))
    shake(trainable.parameters().values(), 0.1)
    source = tmp_path / "adapter"
    source.mkdir()
    trainable.save(source)
    labelled = task in ("SEQ_CLS", "TOKEN_CLS")
    objective = {"name": {"SEQ_CLS": "classification", "TOKEN_CLS": "token_classification"}.get(task, "sft")}
    Purpose(task=task, objective=objective, labels=LABELS if labelled else None).write(source)
    check(source, BY_TASK, ("merged", "peft", "gguf", "gptq"), tmp_path / "out")
    told = json.loads((tmp_path / "out" / "merged" / "config.json").read_text())
    if labelled:
        assert list(told["id2label"].values()) == ["red", "green", "blue"]
    for form in BY_TASK:
        assert json.loads((tmp_path / "out" / form / "luthier_task.json").read_text())["task"] == task
    again = export(tmp_path / "out" / "merged", "merged", tmp_path / "again")  # a whole model leaves the same way
    assert again.proof.holds
    assert (again.folder / "luthier_task.json").is_file()


def test_a_broken_adapter_is_no_export(tiny_llama, tmp_path):
    source = tmp_path / "adapter"
    source.mkdir()
    about = {"peft_type": "LORA", "r": 4, "base_model_name_or_path": str(tiny_llama), "target_modules": ["q_proj"]}
    (source / "adapter_config.json").write_text(json.dumps(about))
    for form in registry.entries("export.forms"):
        with pytest.raises(LuthierError):
            export(source, form, tmp_path / form)
        assert not (tmp_path / form).exists()
