# SPDX-License-Identifier: Apache-2.0
"""Pretrain one embedded model: a transformers Llama, AdamW, packed documents that do not see each other, one stage.

Shapes: B rows, L tokens a row, V vocabulary. A step is always 1024 tokens: three steps of 8 x 128, then one of 4 x 256,
so that distances up to 256 are trained. A row begins with the first token of a document and its last document is cut,
hence no token ever lacks its beginning.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from corpus import documents
from tokenizer import MAX_LENGTH, VOCABULARY
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

STEP_TOKENS = 1024
ROW_LENGTHS = (128, 128, 128, 256)
PART_STEPS = 1000
HELD_OUT_PART = -1
HELD_OUT_STEPS = 40
SIZES = {
    "small": {"hidden_size": 256, "intermediate_size": 512},
    "tiny": {"hidden_size": 128, "intermediate_size": 256},
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a pretraining run depends on."""

    size: str
    tokens: int
    seed: int = 0
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    beta2: float = 0.98
    warmup_steps: int = 200
    clip: float = 1.0

    @property
    def steps(self) -> int:
        """Number of optimiser steps."""
        return self.tokens // STEP_TOKENS

    def rate(self, step: int) -> float:
        """Warm up, stay, then fall linearly from the middle to a fiftieth."""
        decay = min(1.0, 2 * (self.steps - step) / self.steps)
        return self.learning_rate * min(1.0, (step + 1) / self.warmup_steps) * max(decay, 0.02)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Token rows of one length: `ids` and the document of each token, both [rows, L]."""

    ids: torch.Tensor
    document: torch.Tensor


def build_model(size: str) -> LlamaForCausalLM:
    """Return an untrained model of a size of `SIZES`."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        hidden_size=SIZES[size]["hidden_size"],
        intermediate_size=SIZES[size]["intermediate_size"],
        max_position_embeddings=MAX_LENGTH,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(bos_token_id=0, eos_token_id=0, pad_token_id=0, max_new_tokens=48)
    return model


def _token_stream(tokenizer: PreTrainedTokenizerFast, seed: int, part: int) -> Iterator[list[int]]:
    """Yield the ids of one document after another, each opened by `<|end|>`."""
    source = documents(seed, part)
    while True:
        batch = [next(source) for _ in range(2048)]
        for encoding in tokenizer(batch, add_special_tokens=False)["input_ids"]:
            yield [tokenizer.bos_token_id, *encoding]


def _pack(stream: Iterator[list[int]], rows: int, length: int) -> Rows:
    ids, document = torch.zeros(rows, length, dtype=torch.long), torch.zeros(rows, length, dtype=torch.long)
    for row in range(rows):
        filled, index = 0, 0
        while filled < length:
            tokens = next(stream)[: length - filled]
            ids[row, filled : filled + len(tokens)] = torch.tensor(tokens)
            document[row, filled : filled + len(tokens)] = index
            filled, index = filled + len(tokens), index + 1
    return Rows(ids=ids, document=document)


def batches(tokenizer: PreTrainedTokenizerFast, seed: int, part: int, steps: int) -> Iterator[Rows]:
    """Yield the steps of one part of the corpus."""
    stream = _token_stream(tokenizer, seed, part)
    for step in range(steps):
        length = ROW_LENGTHS[step % len(ROW_LENGTHS)]
        yield _pack(stream, STEP_TOKENS // length, length)


def document_mask(document_BL: torch.Tensor) -> torch.Tensor:
    """Return the additive mask [B, 1, L, L]: earlier tokens of the own document only."""
    length = document_BL.shape[1]
    same_BLL = document_BL[:, :, None] == document_BL[:, None, :]
    visible_BLL = same_BLL & torch.ones(length, length, dtype=torch.bool).tril()
    mask_BLL = torch.zeros(visible_BLL.shape, dtype=torch.bfloat16).masked_fill_(~visible_BLL, -1e9)
    return mask_BLL[:, None]


class Objective:
    """Next-token loss of a model in bf16 autocast, compiled if asked."""

    def __init__(self, model: LlamaForCausalLM, *, compiled: bool) -> None:
        self.model = model
        self.forward = torch.compile(self._forward, dynamic=False) if compiled else self._forward

    def _forward(self, ids_BL: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            hidden = self.model.model(input_ids=ids_BL, attention_mask=mask, use_cache=False).last_hidden_state
            logits = self.model.lm_head(hidden[:, :-1])
        return functional.cross_entropy(logits.float().flatten(0, 1), ids_BL[:, 1:].flatten())

    def __call__(self, rows: Rows) -> torch.Tensor:
        """Return the mean loss of the rows."""
        return self.forward(rows.ids, document_mask(rows.document))


def _optimizer(model: LlamaForCausalLM, settings: Settings) -> torch.optim.AdamW:
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, settings.beta2), fused=True)


def save_model(model: LlamaForCausalLM, folder: Path) -> None:
    """Write the weights in bf16 as a transformers folder; the model in memory keeps its fp32 weights."""
    copy = LlamaForCausalLM(model.config).to(torch.bfloat16)
    copy.load_state_dict(model.state_dict())
    copy.generation_config = model.generation_config
    copy.save_pretrained(str(folder))
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)


def held_out_loss(objective: Objective, tokenizer: PreTrainedTokenizerFast, seed: int) -> float:
    """Return the mean loss on documents that are never trained on (drawn from the same generator)."""
    with torch.no_grad():
        steps = list(batches(tokenizer, seed, HELD_OUT_PART, HELD_OUT_STEPS))
        return float(torch.stack([objective(rows) for rows in steps]).mean())


def _train_part(
    objective: Objective, optimizer: torch.optim.AdamW, settings: Settings, data: Iterator[Rows], step: int
) -> int:
    started, losses = time.perf_counter(), []
    for rows in data:
        for group in optimizer.param_groups:
            group["lr"] = settings.rate(step)
        loss = objective(rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(objective.model.parameters(), settings.clip)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
        step += 1
        if step % 100 == 0:
            speed = len(losses) * STEP_TOKENS / (time.perf_counter() - started)
            loss = torch.stack(losses[-100:]).mean()
            print(f"step {step}/{settings.steps} loss {loss:.4f} tok/s {speed:.0f}", flush=True)
    return step


def _resume(
    model: LlamaForCausalLM, optimizer: torch.optim.AdamW, settings: Settings, state_file: Path
) -> tuple[int, float]:
    """Load a saved state if it is a state of this very run; return its step and its CPU seconds.

    Up to the middle of a run nothing depends on its length, so a state from there also serves a longer or shorter run.
    """
    if not state_file.exists():
        return 0, 0.0
    state = torch.load(state_file, weights_only=True)
    saved, step = Settings(**state["settings"]), state["step"]
    same_so_far = 2 * step <= min(saved.steps, settings.steps) and replace(saved, tokens=settings.tokens) == settings
    if saved != settings and not same_so_far:
        return 0, 0.0
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    print(f"resumed at step {step}", flush=True)
    return step, state["cpu_seconds"]


def pretrain(
    settings: Settings, tokenizer: PreTrainedTokenizerFast, folder: Path, scratch: Path, *, compiled: bool = True
) -> dict[str, object]:
    """Train one model and write it to `folder`, also every second part; go on from `scratch` if a state lies there.

    Args:
        settings: size, tokens, seed and optimiser.
        tokenizer: the embedded tokenizer.
        folder: the transformers folder to write.
        scratch: folder for the optimiser state.
        compiled: use `torch.compile` (1.35x faster, needs a C++ compiler).

    Returns:
        The training record that is also written to `folder/training.json`.
    """
    torch.manual_seed(settings.seed)
    model = build_model(settings.size)
    optimizer = _optimizer(model, settings)
    objective = Objective(model, compiled=compiled)
    state_file = scratch / f"{settings.size}.pt"
    step, seconds = _resume(model, optimizer, settings, state_file)
    begun = time.process_time() - seconds
    while step < settings.steps:
        part = step // PART_STEPS
        count = min(PART_STEPS, settings.steps - step)
        step = _train_part(objective, optimizer, settings, batches(tokenizer, settings.seed, part, count), step)
        if part % 2 == 1 or step == settings.steps:
            save_model(model, folder)
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "settings": asdict(settings)}
            scratch.mkdir(parents=True, exist_ok=True)
            torch.save({**state, "step": step, "cpu_seconds": time.process_time() - begun}, state_file)
            print(f"saved after {step * STEP_TOKENS} tokens, {time.process_time() - begun:.0f} CPU s", flush=True)
    record: dict[str, object] = {
        **asdict(settings),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps": step,
        "trained_tokens": step * STEP_TOKENS,
        "held_out_loss": round(held_out_loss(objective, tokenizer, settings.seed), 4),
        "cpu_seconds": round(time.process_time() - begun),
        "torch": torch.__version__,
    }
    (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    return record
