# SPDX-License-Identifier: Apache-2.0
"""LoRA+ equals PEFT's create_loraplus_optimizer: the same parameters after three steps of AdamW.

One difference is not tested: PEFT lets RMSNorms decay, which transformers' Trainer and Luthier do not.
"""

from __future__ import annotations

import pytest
import torch
from tests.tiny import tiny

pytest.importorskip("peft")
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer

from luthier.engine.optim import build_optimizer, set_learning_rate
from luthier.methods import lora
from luthier.recipe import Optim

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

KEYS = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "up_proj", "embed_tokens"]}
RATE, STEPS = 1e-3, 3


@pytest.mark.parametrize(
    ("more", "ratio", "embedding", "decay"),
    [
        ({}, 16.0, None, 0.0),
        ({"bias": "all"}, 4.0, 1e-4, 0.1),
        ({"modules_to_save": ["lm_head", "model.norm"]}, 16, 0.5, 0.0),
    ],
)
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_three_steps(family, more, ratio, embedding, decay):
    torch.manual_seed(0)
    trainable = lora.apply(tiny(family), lora.Config(**KEYS, **more))
    ours = trainable.parameters()
    theirs = get_peft_model(tiny(family), LoraConfig(**KEYS, **more, task_type="CAUSAL_LM"))
    named = {_plain(name): p for name, p in theirs.named_parameters() if p.requires_grad}
    assert named.keys() == ours.keys()
    with torch.no_grad():
        for name, p in named.items():
            p.copy_(ours[name])
    optim = Optim(
        learning_rate=RATE, loraplus_lr_ratio=float(ratio), loraplus_lr_embedding=embedding, weight_decay=decay
    )
    told = {} if embedding is None else {"loraplus_lr_embedding": embedding}
    optimizers = [
        build_optimizer(optim, trainable, ours),
        create_loraplus_optimizer(
            theirs, torch.optim.AdamW, lr=RATE, loraplus_lr_ratio=ratio, loraplus_weight_decay=decay, fused=True, **told
        ),
    ]
    before = {name: p.detach().clone() for name, p in ours.items()}
    draw = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        for name, p in ours.items():
            p.grad = torch.randn(p.shape, generator=draw)
            named[name].grad = p.grad.clone()
        set_learning_rate(optimizers[0], RATE)
        for optimizer in optimizers:
            optimizer.step()
    for name, p in ours.items():
        assert (p - before[name]).abs().max() > 0
        torch.testing.assert_close(p, named[name], atol=1e-7, rtol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def _plain(name: str) -> str:
    """PEFT's name of a parameter -> that in the folder."""
    name = name.removeprefix("base_model.model.").replace(".modules_to_save.default", "")
    return name.replace(".default", "")
