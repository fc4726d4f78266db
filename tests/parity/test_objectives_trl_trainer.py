# SPDX-License-Identifier: Apache-2.0
"""TRL's whole DPOTrainer on a tiny model: its loss and its gradients are those of the objective here."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.judged import bound

from luthier.core.types import Segment, Tree
from luthier.kernels.forest import plant
from luthier.models import scored_logprobs

pytest.importorskip("trl")
pytestmark = pytest.mark.parity


@pytest.mark.slow  # 15 s, of which 10 are imports
@pytest.mark.filterwarnings("ignore")  # TRL 1.16 asks transformers 5.23 for names that it calls deprecated
def test_a_whole_dpo_trainer(tiny_llama, tmp_path):
    """One batch of text through TRL's DPOTrainer and, as trees, through this package: the same loss and gradients."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    policy, reference = (AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32) for _ in range(2))
    with torch.no_grad():
        torch.manual_seed(3)
        for parameter in policy.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    rows = [
        {"prompt": "Add 2 and 3.", "chosen": " It is 5.", "rejected": " I would rather not say."},
        {"prompt": "Name a colour of the sky.", "chosen": " Blue, most days.", "rejected": " Seven."},
        {"prompt": "Stop.", "chosen": " Yes.", "rejected": " No, no, no."},
    ]
    settings = DPOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=3,
        use_cpu=True,
        bf16=False,
        report_to="none",
        beta=0.3,
    )
    trainer = DPOTrainer(
        model=policy,
        ref_model=reference,
        args=settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(tiny_llama),
    )
    trainer.model.train()
    batch = next(iter(trainer.get_train_dataloader()))
    theirs = trainer.compute_loss(trainer.model, batch)
    weights = [p for p in policy.parameters() if p.requires_grad]
    expected = torch.autograd.grad(theirs, weights)
    metrics = {key: values[0] for key, values in trainer._metrics["train"].items()}

    plain = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32, attn_implementation="luthier")
    trees = [_as_tree(batch, place, plain) for place in range(3)]
    plain.load_state_dict(policy.state_dict())
    plain.train()
    forest = plant(trees)
    loss = bound("dpo", {"beta": 0.3}).loss(scored_logprobs(plain, forest), forest)
    found = torch.autograd.grad(loss.total / 3, [p for p in plain.parameters() if p.requires_grad])
    assert loss.total.item() / 3 == pytest.approx(theirs.item(), rel=1e-5)
    assert abs(theirs.item() - 0.6931) > 0.01  # the policy is not the reference
    for key in ("rewards/chosen", "rewards/rejected", "rewards/accuracies", "logps/chosen", "logps/rejected"):
        assert loss.metrics[key].item() / 3 == pytest.approx(metrics[key], rel=1e-4, abs=1e-5), key
    for a, b in zip(found, expected, strict=True):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()


def _as_tree(batch: dict[str, torch.Tensor], place: int, reference: torch.nn.Module) -> Tree:
    """A row of TRL's batch, whose first half are the chosen answers: prompt, both answers, what the reference says."""
    parts = []
    for line in (place, place + len(batch["input_ids"]) // 2):
        ids = batch["input_ids"][line][batch["attention_mask"][line] == 1]
        answer = batch["completion_mask"][line][batch["attention_mask"][line] == 1] == 1
        parts.append((ids[~answer].int().numpy(), ids[answer].int().numpy()))
    prompt = Segment(ids=parts[0][0], scored=np.zeros(len(parts[0][0]), bool))
    answers = tuple(Segment(ids=ids, scored=np.ones(len(ids), bool)) for _, ids in parts)
    tree = Tree(segments=(prompt, *answers), parents=(-1, 0, 0), grades=(math.nan, 1.0, 0.0))
    with torch.no_grad():
        known = scored_logprobs(reference.eval(), plant([tree])).numpy()
    told = np.split(known, [len(answers[0])])
    answers = tuple(replace(answer, reference=logps) for answer, logps in zip(answers, told, strict=True))
    return replace(tree, segments=(replace(prompt, reference=np.zeros(0, np.float32)), *answers))
