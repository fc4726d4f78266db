# SPDX-License-Identifier: Apache-2.0
"""LoRA-FA: PEFT's LORA folders with an A that did not move, PEFT's gradients of B, and inputs that no layer keeps."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tests.reward import shake
from tests.tiny import tiny

from luthier.core.errors import RecipeError
from luthier.export.adapter import fill_adapter, load_adapter
from luthier.methods import lora, lora_fa

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

TOLERANCE = 1e-5
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 58, 9, 7, 0, 31, 12]])
PATTERNS = {"rank_pattern": {"down_proj": 2}, "alpha_pattern": {"up_proj": 3}}
CASES = [
    ("llama", {"r": 4, "lora_alpha": 6}),
    ("llama", {"r": 4, "use_rslora": True, **PATTERNS}),
    ("qwen2", {"r": 4, "bias": "lora_only", "init_lora_weights": "gaussian"}),
    ("gpt2", {"r": 4, "target_modules": ["c_attn", "mlp.c_proj"]}),
    ("tied", {"r": 4, "target_modules": ["lm_head", "v_proj"]}),
    ("llama", {"r": 4, "target_modules": ["v_proj"], "modules_to_save": ["lm_head"]}),
]
each = pytest.mark.parametrize(("family", "keys"), CASES)


def logits(model) -> torch.Tensor:
    return model.eval()(input_ids=IDS, use_cache=False).logits


def loss(model) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits(model)[0, :-1], IDS[0, 1:], reduction="sum")


@each
def test_folders_fit_peft_and_here(family, keys, tmp_path):
    trainable = lora_fa.apply(tiny(family), lora_fa.Config(**keys))
    shake(trainable.parameters().values())
    trainable.save(tmp_path)
    there, again = PeftModel.from_pretrained(tiny(family), tmp_path), tiny(family)
    load_adapter(again, tmp_path)
    with torch.no_grad():
        here = logits(trainable.model)
        assert (here - logits(tiny(family))).abs().max() > 0.02
        assert (logits(there) - here).abs().max() <= TOLERANCE
        assert (logits(again) - here).abs().max() <= TOLERANCE
        assert (logits(trainable.merge()) - here).abs().max() <= TOLERANCE


@each
def test_gradients_are_pefts_with_a_frozen(family, keys, tmp_path):
    trainable = lora_fa.apply(tiny(family), lora_fa.Config(**keys))
    shake(trainable.parameters().values())
    trainable.save(tmp_path)
    theirs = PeftModel.from_pretrained(tiny(family), tmp_path, is_trainable=True)
    for name, parameter in theirs.named_parameters():  # as its create_lorafa_optimizer does
        parameter.requires_grad_(parameter.requires_grad and "lora_A" not in name)
    loss(theirs).backward()
    loss(trainable.model).backward()
    wanted = {
        name.replace("base_model.model.", "").replace(".default", "").replace("modules_to_save.", ""): p.grad
        for name, p in theirs.named_parameters()
        if p.grad is not None
    }
    assert wanted.keys() == trainable.parameters().keys()
    for name, parameter in trainable.parameters().items():
        bound = TOLERANCE * max(1.0, float(wanted[name].abs().max()))
        assert (parameter.grad - wanted[name]).abs().max() <= bound, name


def test_half_of_loras_numbers_train_and_inputs_are_not_kept():
    sizes, numbers = {}, {}
    for method in (lora, lora_fa):
        trainable = method.apply(tiny("llama"), method.Config(r=4, target_modules="mlp"))
        model, kept = trainable.model.train(), {}
        own = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}

        def keep(tensor, kept=kept, own=own):
            if tensor.untyped_storage().data_ptr() not in own:
                kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            found = loss(model)
        sizes[method], numbers[method] = sum(kept.values()), trainable.num_trainable
        found.backward()
    tokens, up = 16 * 4, 48  # bytes of a number for each token; outputs of `up_proj`
    assert sizes[lora] - sizes[lora_fa] >= 2 * tokens * up  # of both layers the input of down_proj, at least
    assert numbers[lora_fa] < 0.6 * numbers[lora]


def test_training_goes_on_from_a_folder(tmp_path):
    """A is the folder's and not this seed's, also of a folder that LoRA wrote."""
    for number, method in enumerate((lora_fa, lora)):
        folder = tmp_path / str(number)
        folder.mkdir()
        trained = method.apply(tiny("llama"), method.Config(r=4))
        shake(trained.parameters().values())
        trained.save(folder)
        again = lora_fa.apply(tiny("llama"), lora_fa.Config(r=4))
        fill_adapter(again, folder)
        with torch.no_grad():
            assert (logits(again.model) - logits(trained.model)).abs().max() <= TOLERANCE
        (folder / "again").mkdir()
        again.save(folder / "again")
        first, second = (load_file(one / "adapter_model.safetensors") for one in (folder, folder / "again"))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)
        with pytest.raises(RecipeError, match="has r 4"):
            fill_adapter(lora_fa.apply(tiny("llama"), lora_fa.Config(r=2)), folder)


def test_an_embedding_is_refused():
    model = tiny("llama")
    with pytest.raises(RecipeError, match="embed_tokens, an embedding; linear layers"):
        lora_fa.apply(model, lora_fa.Config(target_modules=["embed_tokens", "q_proj"]))
    assert all(parameter.requires_grad for parameter in model.parameters())
