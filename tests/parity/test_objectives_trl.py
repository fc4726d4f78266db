# SPDX-License-Identifier: Apache-2.0
"""The losses and metrics of TRL's trainers on the same log-probabilities: its own methods run, without its loop."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.judged import bound, judged_tree, loss_of, said, units_of

pytest.importorskip("trl")

pytestmark = pytest.mark.parity

PAIRS = [judged_tree([1.0, 0.0], seed) for seed in range(6)]

LABELS = [1.0, 0.0, 1.0, 1.0, 0.0]

ANSWERS = [judged_tree([label], seed, mismatched=1) for seed, label in enumerate(LABELS)]

ROOM = 8  # columns of TRL's padded batch: three of prompt, up to six of answer, less the first


class Here:
    """What a trainer asks of accelerate, for one process."""

    device = torch.device("cpu")

    @staticmethod
    def gather(tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    gather_for_metrics = gather


def _padded(rows: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of answers as TRL's model gives them (0 off the answer), and its mask of completions."""
    logps = torch.zeros(len(rows), ROOM, dtype=rows[0].dtype)
    mask = torch.zeros(len(rows), ROOM + 1, dtype=torch.long)
    for place, row in enumerate(rows):
        logps[place, 2 : 2 + len(row)] = row
        mask[place, 3 : 3 + len(row)] = 1
    return logps, mask


def _children(trees: list[Any], outputs: list[torch.Tensor], child: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    """What policy and reference say of each tree's child: tokens of the one, sums of the other."""
    tokens, sums = [], []
    for tree, values in zip(trees, outputs, strict=True):
        tokens.append(values.split([int(segment.scored.sum()) for segment in tree.segments])[child])
        sums.append(torch.from_numpy(tree.segments[child].reference).to(values).sum())
    return tokens, torch.stack(sums)


def _model(logps: torch.Tensor) -> Any:
    """A model whose answer is known: TRL's fused head gives log-probabilities and statistics of logits."""
    nothing = torch.zeros_like(logps)
    outputs = SimpleNamespace(log_probs=logps, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool())

    def forward(**_: Any) -> Any:
        return outputs

    forward.training = True
    return forward


def _dpo(keys: dict[str, Any], outputs: list[torch.Tensor]) -> tuple[torch.Tensor, dict[str, list[float]]]:
    from trl import DPOTrainer

    chosen, ref_chosen = _children(PAIRS, outputs, 1)
    rejected, ref_rejected = _children(PAIRS, outputs, 2)
    logps, mask = _padded(chosen + rejected)
    model = _model(logps)
    trainer = SimpleNamespace(
        model=model,
        accelerator=Here(),
        args=SimpleNamespace(discopop_tau=0.05, gradient_checkpointing_kwargs=None),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type=keys.get("f_divergence_type", "reverse_kl"),
        f_alpha_divergence_coef=keys.get("f_alpha_divergence_coef", 0.5),
        loss_types=[keys["loss_type"]],
        loss_weights=[1.0],
        beta=keys.get("beta", 0.1),
        label_smoothing=keys.get("label_smoothing", 0.0),
        use_weighting=False,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs = {
        "input_ids": torch.zeros_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "ref_chosen_logps": ref_chosen,
        "ref_rejected_logps": ref_rejected,
    }
    loss = DPOTrainer._compute_loss(trainer, model, inputs, False)
    return loss, trainer._metrics["train"]


def _same(ours: Any, objective: Any, trees: list[Any], outputs: list[torch.Tensor], theirs: torch.Tensor) -> None:
    """Loss and gradient agree."""
    units = units_of(objective, trees)
    assert ours.total.item() / units == pytest.approx(theirs.item(), rel=1e-6)
    mine = torch.autograd.grad(ours.total / units, outputs)
    for a, b in zip(mine, torch.autograd.grad(theirs, outputs), strict=True):
        assert (a - b).abs().max() <= 1e-6 * max(1.0, float(b.abs().max()))


ALPHA = {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.3}


@pytest.mark.parametrize(
    ("name", "keys", "theirs"),
    [
        ("dpo", {"loss_type": "sigmoid"}, {}),
        ("dpo", {"loss_type": "sigmoid", "beta": 0.7}, {}),
        ("dpo", {"loss_type": "hinge"}, {}),
        ("dpo", {"loss_type": "robust", "label_smoothing": 0.1}, {}),
        ("dpo", {"loss_type": "exo_pair", "label_smoothing": 1e-3}, {}),
        ("dpo", {"loss_type": "nca_pair"}, {}),
        ("dpo", {"loss_type": "apo_zero"}, {}),
        ("dpo", {"loss_type": "apo_down"}, {}),
        ("dpo", {"loss_type": "sppo_hard"}, {}),
        ("dpo", {"loss_type": "discopop"}, {}),
        ("dpo", {"loss_type": "sigmoid", "f_divergence_type": "forward_kl"}, {}),
        ("dpo", {"loss_type": "sigmoid", "f_divergence_type": "js_divergence"}, {}),
        ("dpo", {"loss_type": "hinge", "f_divergence_type": "js_divergence"}, {}),
        ("dpo", {"loss_type": "sigmoid"} | ALPHA, {}),
        ("dpo", {"loss_type": "robust", "label_smoothing": 0.1} | ALPHA, {}),
        ("dpo", {"length_normalized": True, "beta": 2.0}, {"loss_type": "sigmoid_norm"}),
        ("ipo", {"beta": 0.3}, {"loss_type": "ipo"}),
    ],
    ids=str,
)
def test_dpo_trainer(name, keys, theirs):
    dtype = torch.float32 if "f_alpha_divergence_coef" in keys else torch.float64  # TRL knows no alpha in float64
    outputs = [value.requires_grad_() for value in said(name, PAIRS, dtype)]
    objective = bound(name, keys)
    ours = loss_of(objective, PAIRS, outputs)
    loss, logged = _dpo(keys | theirs, outputs)
    _same(ours, objective, PAIRS, outputs, loss)
    for key in ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"):
        assert ours.metrics[key].item() / 6 == pytest.approx(logged[key][0], rel=1e-6), key
    for key in ("logps/chosen", "logps/rejected"):
        assert ours.metrics[key].item() / 6 == pytest.approx(logged[key][0], rel=1e-6), key


@pytest.mark.parametrize("shift", [-0.3, 0.3])
@pytest.mark.parametrize(
    "keys",
    [{}, {"beta": 0.4}, {"desirable_weight": 1.3, "undesirable_weight": 0.6}, {"loss_type": "apo_zero_unpaired"}],
    ids=str,
)
def test_kto_trainer(keys, shift):
    """`shift` moves the policy to either side of the reference: TRL's KL is clamped at 0 on one of them."""
    from trl import KTOTrainer

    outputs = [(value + shift).requires_grad_() for value in said("kto", ANSWERS)]
    answers, reference = _children(ANSWERS, outputs, 1)
    others, other_reference = _children(ANSWERS, outputs, 2)
    logps, mask = _padded(answers)
    model = _model(logps)
    trainer = SimpleNamespace(
        model=model,
        accelerator=Here(),
        aux_loss_enabled=False,
        precompute_ref_logps=True,
        calculate_KL=keys.get("loss_type", "kto") == "kto",
        loss_type=keys.get("loss_type", "kto"),
        beta=keys.get("beta", 0.1),
        desirable_weight=keys.get("desirable_weight", 1.0),
        undesirable_weight=keys.get("undesirable_weight", 1.0),
        _compute_kl_logps=lambda *_: torch.stack([tokens.detach().sum() for tokens in others]),
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs = {
        "input_ids": torch.zeros_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "label": torch.tensor(LABELS) == 1.0,
        "ref_logps": reference,
        "ref_KL_logps": other_reference,
    }
    theirs = KTOTrainer._compute_loss(trainer, model, inputs, False)
    objective = bound("kto", keys)
    ours = loss_of(objective, ANSWERS, outputs)
    _same(ours, objective, ANSWERS, outputs, theirs)
    logged = trainer._metrics["train"]
    assert ours.metrics["z0"].item() / 5 == pytest.approx(logged["kl"][0], rel=1e-6)
    for key in ("rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected"):
        assert ours.metrics[key].item() / 5 == pytest.approx(logged[key][0], rel=1e-6), key


def _means(outputs: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = [_children(PAIRS, outputs, child)[0] for child in (1, 2)]
    chosen, rejected = (torch.stack([row.mean() for row in rows]) for rows in tokens)
    return chosen, rejected


def _sums(outputs: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = [_children(PAIRS, outputs, child)[0] for child in (1, 2)]
    chosen, rejected = (torch.stack([row.sum() for row in rows]) for rows in tokens)
    return chosen, rejected


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("cpo", {"cpo_alpha": 0.0}),
        ("cpo", {"cpo_alpha": 0.0, "label_smoothing": 0.2}),
        ("cpo", {"cpo_alpha": 0.0, "loss_type": "hinge", "beta": 0.3}),
        ("cpo", {}),
        ("simpo", {}),
        ("simpo", {"beta": 2.5, "simpo_gamma": 1.2, "label_smoothing": 0.1}),
        ("simpo", {"sft_weight": 0.5}),
    ],
    ids=str,
)
def test_cpo_trainer(name, keys):
    from trl.experimental.cpo import CPOTrainer

    outputs = [value.requires_grad_() for value in said(name, PAIRS)]
    chosen, rejected = (_means if name == "simpo" else _sums)(outputs)
    trainer = SimpleNamespace(
        accelerator=Here(),
        alpha=0.0,
        loss_type="simpo" if name == "simpo" else keys.get("loss_type", "sigmoid"),
        beta=keys.get("beta", 2.0 if name == "simpo" else 0.1),
        simpo_gamma=keys.get("simpo_gamma", 0.5),
        label_smoothing=keys.get("label_smoothing", 0.0),
    )
    losses, rewards_chosen, rewards_rejected = CPOTrainer.cpo_loss(trainer, chosen, rejected)
    # TRL's likelihood is a mean over a batch's tokens, so that its weight depends on what shares the batch; row by
    # row it is this one.
    weight = keys.get("sft_weight", 0.0) if name == "simpo" else keys.get("cpo_alpha", 1.0)
    theirs = losses.mean() - weight * _means(outputs)[0].mean()
    objective = bound(name, keys)
    ours = loss_of(objective, PAIRS, outputs)
    _same(ours, objective, PAIRS, outputs, theirs)
    assert ours.metrics["rewards/chosen"].item() == pytest.approx(rewards_chosen.sum().item(), rel=1e-6)
    assert ours.metrics["rewards/rejected"].item() == pytest.approx(rewards_rejected.sum().item(), rel=1e-6)


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_orpo_trainer(beta):
    from trl.experimental.orpo import ORPOTrainer

    outputs = [value.requires_grad_() for value in said("orpo", PAIRS, torch.float32)]  # TRL's odds are float32
    chosen, rejected = _means(outputs)
    trainer = SimpleNamespace(beta=beta, accelerator=Here())
    losses, rewards_chosen, _, ratio, odds = ORPOTrainer.odds_ratio_loss(trainer, chosen, rejected)
    objective = bound("orpo", {"beta": beta})
    ours = loss_of(objective, PAIRS, outputs)
    _same(ours, objective, PAIRS, outputs, -chosen.mean() - losses.mean())
    assert ours.metrics["rewards/chosen"].item() == pytest.approx(rewards_chosen.sum().item(), rel=1e-6)
    assert ours.metrics["log_odds_ratio"].item() / 6 == pytest.approx(ratio.item(), rel=1e-6)
    assert ours.metrics["log_odds_chosen"].item() / 6 == pytest.approx(odds.item(), rel=1e-5)


@pytest.mark.parametrize("coefficient", [None, 0.05])
@pytest.mark.parametrize("scores", [(), (8.5, 7.25)], ids=str)
def test_reward_trainer(coefficient, scores):
    from trl import RewardTrainer

    trees = [judged_tree([1.0, 0.0], seed, scores=scores) for seed in range(6)]
    outputs = [value.requires_grad_() for value in said("reward", trees)]
    logits = torch.stack([value[child] for child in (1, 2) for value in outputs])[:, None]

    def model(**_: Any) -> Any:
        return SimpleNamespace(logits=logits)

    model.training = True
    trainer = SimpleNamespace(
        model=model,
        accelerator=Here(),
        args=SimpleNamespace(center_rewards_coefficient=coefficient),
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs = {"attention_mask": torch.ones(12, 4)} | ({"margin": torch.full((6,), 1.25)} if scores else {})
    theirs = RewardTrainer.compute_loss(trainer, model, inputs)
    objective = bound("reward", {"center_rewards_coefficient": coefficient})
    ours = loss_of(objective, trees, outputs)
    _same(ours, objective, trees, outputs, theirs)
    logged = trainer._metrics["train"]
    for key in ("accuracy", "margin", "mean_reward"):
        assert ours.metrics[key].item() / 6 == pytest.approx(logged[key][0], rel=1e-6), key
