# SPDX-License-Identifier: Apache-2.0
"""The recipe: every key a run understands, with its type, default and meaning.

Keys keep the spelling of transformers, PEFT and TRL. The text below a key is its one documentation:
the command line's help, the YAML comments and the docs are made from it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from luthier.core.tasks import Task

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]


class Section(BaseModel):
    """Common behaviour of all sections: strict, frozen, unknown keys refused."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class Model(Section):
    """Which base model, in which numbers."""

    model_name_or_path: Annotated[str, Field(min_length=1)]
    """A transformers folder, a hub name, `embedded` or `embedded-tiny`."""
    model_revision: str | None = None
    """Hub revision."""
    task_type: Literal["auto"] | Task = "auto"
    """What the model is for, in PEFT's words; `auto`: what `objective` trains. Alone, it chooses the objective."""
    adapter_name_or_path: str | None = None
    """A PEFT folder to go on training from; its settings must agree with `method`."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Numbers of the forward pass. `auto`: bfloat16 where the machine multiplies it fast, else float32."""
    quantization: Literal["none", "nf4", "fp4", "int8"] = "none"
    """Bits of the frozen base's linear layers: 4 (`nf4`: QLoRA, `fp4`) or 8; a quantised checkpoint stays as it is."""
    bnb_4bit_use_double_quant: bool = False
    """Quantise the scales of `nf4` and `fp4` too: 4.13 bits a weight instead of 4.5."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless you say so."""


class Source(Section):
    """One place that rows come from."""

    path: Annotated[str, Field(min_length=1)]
    """A file (JSON, JSONL, CSV, Parquet, CoNLL, text), a folder, a hub data set, or a shipped one: `embedded:train`."""
    format: str = "auto"
    """A name of `luthier formats`, or `auto`: told by the columns and said aloud."""
    split: str | None = None
    """The split of a folder or hub data set; default `train`, or `test` for `data.eval`."""
    config: str | None = None
    """The configuration (subset) of a hub data set that has several."""
    weight: Annotated[float, Field(gt=0.0)] = 1.0
    """Share of the rows used in each epoch; 2 uses each row twice, 0.5 every second one (drawn anew each epoch)."""
    max_rows: Positive | None = None
    """Use only the first rows."""
    columns: dict[str, str | NonNegative] = {}
    """Your column names, `{instruction: question}`; of a CSV or TSV file without any their numbers: `{text: 0}`."""


def _sources(value: Any) -> Any:
    """Accept `path`, `{path: …}` and lists of both."""
    items = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(item, str | dict | Source) for item in items):
        raise ValueError("a path, {path: …}, or a list of both")
    return tuple({"path": item} if isinstance(item, str) else item for item in items)


Sources = Annotated[tuple[Source, ...], BeforeValidator(_sources)]


class Data(Section):
    """Which rows, and how the model sees them."""

    train: Sources
    """Where the training rows come from: a path, or a list of sources."""
    eval: Sources = ()
    """Rows for evaluation during training."""
    max_length: Annotated[int, Field(ge=8)] = 1024
    """Tokens of one example at most; longer ones are treated as `truncation` says, and counted."""
    max_prompt_length: Annotated[int, Field(ge=2)] | None = None
    """Tokens of a judged row's prompt, or of a source, at most; null: what `max_length` leaves beside the answer."""
    truncation: Literal["right", "refuse"] = "right"
    """Cut the end of a row that is too long (with judged answers: the start of their prompt), or refuse the row."""
    packing: bool = True
    """Lay several examples into one bin of `max_length` tokens, unseen by each other; never judged rows or pairs."""
    share_prompts: bool = True
    """Compute a prompt once for all its judged answers; false: once for each, as other trainers do."""
    loss_on: Literal["assistant", "last", "all"] = "assistant"
    """Train on every assistant turn, on the last one only, or on all tokens."""
    chat_template: str = "auto"
    """`auto`: the model's own. Else a name of `luthier templates`, a Jinja file, or Jinja itself."""
    system: str | None = None
    """System prompt for conversations that have none."""
    labels: tuple[str, ...] = ()
    """Names of the classes or tags in the order of their numbers; empty: those of the training rows, sorted."""
    doc_stride: NonNegative = 128
    """Tokens that two windows of one long row share, where rows are questions or tagged words."""
    refused_tolerance: Share = 0.02
    """Share of refused rows above which the run stops before it starts."""
    shuffle: bool = True
    """Draw a new order in each epoch from `seed`."""


def _words(value: Any) -> Any:
    """Accept `lora_B` for `[lora_B]`."""
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


Words = Annotated[tuple[str, ...], BeforeValidator(_words), Field(min_length=1)]


def _listed(value: Any) -> Any:
    """Accept `{parameters: …}` for `[{parameters: …}]`."""
    return (value,) if isinstance(value, dict | Group) else tuple(value) if isinstance(value, list) else value


class Group(Section):
    """Some of the trained parameters, with a learning rate or a weight decay of their own."""

    parameters: Words
    """`embeddings`, `head`, `norms`, `biases`, `attention`, `mlp`, `layers[2]`, `layers[0-3]`, or a regular
    expression that is found in their names (`lora_B`); or a list of these."""
    learning_rate: Annotated[float, Field(gt=0.0)] | None = None
    """Their peak learning rate."""
    learning_rate_scale: Annotated[float, Field(gt=0.0)] | None = None
    """Or a factor on the one that they have without this group."""
    weight_decay: Annotated[float, Field(ge=0.0)] | None = None
    """Their weight decay, vectors among them too."""

    @model_validator(mode="after")
    def _says_something(self) -> Group:
        rates = sum(rate is not None for rate in (self.learning_rate, self.learning_rate_scale))
        if rates > 1 or (not rates and self.weight_decay is None):
            raise ValueError("learning_rate or learning_rate_scale, or weight_decay, or a rate and a decay")
        return self


class Optim(Section):
    """How the parameters move."""

    optim: str = "adamw"
    """A name of `luthier optimizers`, or another tool's for one of them (`adamw_torch`, `adamw_bnb_8bit`)."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 2.0e-4
    """Peak learning rate."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """Decoupled weight decay (added to the gradient for `sgd`); biases and norms are left out."""
    adam_beta1: Decay = 0.9
    """First moment's decay."""
    adam_beta2: Decay | None = None
    """Second moment's decay; for `lion` that of its only one. null: 0.999, and 0.99 for `lion`."""
    adam_epsilon: Annotated[float, Field(gt=0.0)] = 1.0e-8
    """Added to the root of the second moment."""
    momentum: Decay = 0.0
    """Momentum of `sgd`."""
    groups: Annotated[tuple[Group, ...], BeforeValidator(_listed)] = ()
    """Parameters with a rate or decay of their own. A later group goes over an earlier one, key by key."""
    loraplus_lr_ratio: Annotated[float, Field(gt=0.0)] | None = None
    """LoRA+: so many times the learning rate for `lora_B` and trained vectors (16 in the paper)."""
    loraplus_lr_embedding: Annotated[float, Field(gt=0.0)] | None = None
    """With `loraplus_lr_ratio`, the learning rate of LoRA's updates of embeddings; null: 1.0e-6, as in PEFT."""
    layer_decay: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Layer-wise decay: the head has the learning rate, each layer below so many times that of the one above."""
    weights: Literal["float32", "bfloat16_stochastic"] = "float32"
    """What moves where trained weights are bfloat16: float32 masters, or the weights themselves, rounded at random."""
    max_grad_norm: Annotated[float, Field(ge=0.0)] = 1.0
    """Clip the gradient's global norm; 0 turns clipping off."""
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    """Shape of the learning rate after warm-up."""
    warmup_ratio: Share = 0.03
    """Share of the steps that warm up; `warmup_steps` goes before it."""
    warmup_steps: NonNegative = 0
    """Steps that warm up; 0 means `warmup_ratio` decides."""


def _trackers(value: Any) -> Any:
    """Accept `tensorboard` for `[tensorboard]`, and transformers' `none`."""
    if isinstance(value, str):
        return () if value == "none" else (value,)
    return tuple(value) if isinstance(value, list) else value


def _checkpointing(value: Any) -> Any:
    """Each layer of a list once, in order; a number is a share, so 1 would be read in two ways."""
    right = isinstance(value, bool) or value in ("auto", "offload") or (type(value) is float and 0 < value < 1)
    listed = isinstance(value, list | tuple) and all(type(place) is int and place >= 0 for place in value)
    if not right and not (listed and value):
        raise ValueError("auto, true, false, offload, a share of the layers (0.5), or a list of them, from 0")
    return tuple(sorted(set(value))) if listed else value


Checkpointing = Annotated[
    Literal["auto", "offload"] | bool | Annotated[float, Field(gt=0.0, lt=1.0)] | tuple[NonNegative, ...],
    BeforeValidator(_checkpointing),
]


Trackers = Annotated[tuple[str, ...], BeforeValidator(_trackers)]


class Train(Section):
    """The loop."""

    num_train_epochs: Annotated[float, Field(gt=0.0)] = 1.0
    """Passes over the data; `max_steps` goes before it."""
    max_steps: Annotated[int, Field(ge=-1)] = -1
    """Optimiser steps; -1 means `num_train_epochs` decides."""
    per_device_train_batch_size: Positive = 8
    """Bins of `max_length` tokens in a micro-batch (with packing), or examples; a judged row or a pair is one."""
    gradient_accumulation_steps: Positive = 1
    """Micro-batches of an optimiser step; the loss is normalised over all of them."""
    per_device_eval_batch_size: Positive = 8
    """As for training, in evaluation."""
    gradient_checkpointing: Checkpointing = "auto"
    """Run layers again in the backward pass instead of keeping their activations: all (`true`), a share of them, or a
    list, from 0; `offload`: all, and their inputs wait in the host's memory; `auto`: as few as fit into memory."""
    skip_memory_check: bool = False
    """Start a run that its plan says does not fit into the free memory."""
    torch_compile: bool = False
    """Compile the decoder layers: 1.1 to 1.2 times as fast on a CPU, after a minute or more at the first step."""
    logging_steps: Positive = 1
    """A line in metrics.jsonl every so many steps; its loss is the mean since the line before."""
    eval_steps: NonNegative = 0
    """Evaluate every so many steps; 0: only at the end (where `data.eval` is given)."""
    save_steps: NonNegative = 0
    """Write a checkpoint every so many steps; 0: only at the end and on Ctrl-C."""
    save_total_limit: Positive | None = 2
    """Keep this many newest checkpoints (and the best one, with `load_best_model_at_end`); null: all."""
    early_stopping_patience: NonNegative = 0
    """Stop after so many evaluations that are no better than the best one; 0: never."""
    load_best_model_at_end: bool = False
    """The result is the checkpoint with the best evaluation, not the last one."""
    metric_for_best_model: Annotated[str, Field(min_length=1)] = "loss"
    """Which of the evaluation's values says what is best: `loss`, or one of the objective's, such as `f1`."""
    greater_is_better: bool | None = None
    """Whether more of it is better; null: less of a loss or an error (`mse`), more of anything else."""
    report_to: Trackers = ()
    """Trackers besides metrics.jsonl: `tensorboard`, `wandb`, or any file in `engine/callbacks`."""
    push_to_hub: bool = False
    """Upload the result with a model card when the run has ended; the token is looked for before it begins."""
    hub_model_id: Annotated[str, Field(min_length=1)] | None = None
    """The repository, `NAME` or `OWNER/NAME`; null: named after output_dir."""
    hub_private_repo: bool = False
    """Make a repository that is not there yet a private one."""


def _entry(value: Any) -> Any:
    """Accept `lora` for `{name: lora}`."""
    return {"name": value} if isinstance(value, str) else value


Entry = Annotated[dict[str, Any], BeforeValidator(_entry)]


class Recipe(Section):
    """One run: model x data x method x objective x optim x train.

    Example:
        >>> Recipe(model={"model_name_or_path": "embedded"}, data={"train": "rows.jsonl"}).optim.learning_rate
        0.0002
    """

    model: Model
    """Which base model."""
    data: Data
    """Which rows."""
    method: Entry = {"name": "lora"}
    """What is trainable: a name of `luthier methods` and that method's own keys."""
    objective: Entry = {"name": "sft"}
    """What is minimised: a name of `luthier objectives` and that objective's own keys."""
    optim: Optim = Optim()
    """How the parameters move."""
    train: Train = Train()
    """The loop."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Initialisation, order and dropout."""
    output_dir: Annotated[str, Field(min_length=1)] = "runs/first"
    """Where everything is written; relative to the current folder, as are all paths here."""
