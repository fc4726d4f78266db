# SPDX-License-Identifier: Apache-2.0
"""What advice is drawn from: sizes of the model, lengths of the rows, the memory. Data only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from luthier.core.tasks import RowKind


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """A model as its configuration tells it.

    Attributes:
        name: As the user gave it.
        parameters: All of them; a tied head counts once.
        hidden_size: Width of the residual stream.
        layers: Decoder layers.
        vocabulary: Words.
        tied: Whether head and embedding are one matrix.
        positions: Tokens of one example at most, None where the configuration tells no limit.
        linear: Numbers in the matrices that quantisation would store in fewer bits: linears but the head.
        per_rank: Numbers that LoRA on all linears trains for each unit of r.
        smallest: The smallest side among those linears; r cannot be larger.
        exclude: Endings that `all-linear` has to leave out: stacked experts, and linears with a side below 8.
        saved_lora: Bytes that a token leaves for the backward pass with a frozen base, all layers.
        saved_full: The same where every parameter trains.
        counted: How these two were found: of the model's own layers, or by a formula where those did not run.
        chats: Whether its tokenizer brings a chat template: a sign of a model that is tuned already.
    """

    name: str
    parameters: int
    hidden_size: int
    layers: int
    vocabulary: int
    tied: bool
    positions: int | None
    linear: int
    per_rank: int
    smallest: int
    exclude: tuple[str, ...]
    saved_lora: int
    saved_full: int
    counted: Literal["layers", "formula"] = "layers"
    chats: bool = False


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """The training rows, in this model's tokens.

    Attributes:
        rows: Examples that would train.
        estimated: Whether their number was worked out from the size of a file that was not read to its end.
        sampled: How many of them were tokenised: the first ones.
        mean: Tokens of an example; of a judged one those of its tree, prompt counted once.
        median: Tokens of an example as `max_length` counts them: of a judged one its prompt and one answer.
        p95: 95 % are no longer.
        p99: 99 % are no longer.
        longest: The longest one that was seen.
        tree: Tokens of the largest tree; for plain rows the same as `longest`.
        judged: Whether they are judged answers, for preference objectives.
        labelled: Whether those are single answers with a label.
        text: Whether they are plain text to go on pretraining with.
        kind: What a row is.
    """

    rows: int
    estimated: bool
    sampled: int
    mean: float
    median: int
    p95: int
    p99: int
    longest: int
    tree: int
    judged: bool = False
    labelled: bool = False
    text: bool = False
    kind: RowKind = "plain"


@dataclass(frozen=True, kw_only=True)
class MachineFacts:
    """Where it shall train.

    Attributes:
        device: `cuda` or `cpu`.
        memory: Bytes that the run may take.
        told: Who says so: `--memory`, or what this machine has free.
        bf16: Whether it multiplies bfloat16 in hardware.
        quantizations: What this version of Luthier can store a frozen base in, besides 16 and 32 bits.
    """

    device: Literal["cpu", "cuda"]
    memory: int
    told: str
    bf16: bool
    quantizations: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything that the rules read.

    Attributes:
        model: The base.
        data: The rows; None where no data was named.
        machine: Device and memory.
        objective: A name of `luthier objectives`.
        method: A method that the user holds to (`--method`); None lets the rules choose.
    """

    model: ModelFacts
    data: DataFacts | None
    machine: MachineFacts
    objective: str
    method: str | None = None

    @property
    def dtype(self) -> Literal["bfloat16", "float32"]:
        """What `dtype: auto` means there."""
        return "bfloat16" if self.machine.bf16 else "float32"

    @property
    def itemsize(self) -> int:
        """Bytes of one number of the base."""
        return 2 if self.machine.bf16 else 4

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)
