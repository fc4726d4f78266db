# SPDX-License-Identifier: Apache-2.0
"""What is served: names -> runs, adapters and models; those of one base share it and one engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import ModelError, UserError
from luthier.engine.precision import pick_device, pick_dtype
from luthier.export.adapter import is_adapter, load_adapter, method_of
from luthier.export.held_out import load_words
from luthier.export.origin import find_origin
from luthier.models import load_tokenizer
from luthier.models.backbone import last_position
from luthier.models.draws import Draws
from luthier.models.generate import stop_ids
from luthier.models.heads import task_of_model
from luthier.models.probe_slots import prove_slots
from luthier.models.side_by_side import SideBySide, member_of
from luthier.models.slots import NAME
from luthier.run import load
from luthier.serve.engine import Engine
from luthier.serve.sequence import Sequence

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from luthier.export.origin import Origin
    from luthier.recipe import Model
    from luthier.serve.asked import Asked, Tell

LONGEST = 8192  # tokens of prompt and reply by default, where the model has more positions
BASE = "base"  # the name of a base without adapter


@dataclass(frozen=True, kw_only=True)
class Room:
    """How much an engine may take on.

    Attributes:
        places: Replies that are written at once.
        capacity: Tokens of prompt and reply; None: what the model has positions for, and at most LONGEST.
        queue: Replies that may wait besides.
    """

    places: int = 64
    capacity: int | None = None
    queue: int = 256


@dataclass(frozen=True, kw_only=True)
class Served:
    """One name that replies are asked from.

    Attributes:
        name: As requests say it.
        engine: Writes them.
        adapter: Which member of the engine's.
        tokenizer: With the chat template of the run.
        ends: Tokens that end a reply in a chat.
        raw_ends: Tokens that end a text that is gone on with.
    """

    name: str
    engine: Engine
    adapter: int
    tokenizer: PreTrainedTokenizerBase
    ends: frozenset[int]
    raw_ends: frozenset[int]

    @property
    def capacity(self) -> int:
        """Tokens of prompt and reply that one may have."""
        return self.engine.capacity - self.engine.virtual[self.adapter]

    def sequence(self, asked: Asked, tell: Tell) -> Sequence:
        """A reply under this name."""
        return Sequence(asked, self.adapter, self.tokenizer, tell)


@dataclass
class _Base:
    """A base with what stands on it, while it is loaded."""

    origin: Origin
    model: PreTrainedModel
    names: list[str] = field(default_factory=list)
    members: list[PreTrainedModel] = field(default_factory=list)
    tokenizers: list[PreTrainedTokenizerBase] = field(default_factory=list)


class Shelf:
    """Everything that is served.

    Args:
        runs: RUN or NAME=RUN: run folders, adapter folders, models.
        room: Of each base's engine.
        dtype: As in a recipe; by default what each was trained in.
        say: Receives a line about each base.

    Attributes:
        served: By name, in the order given; bases without adapter at the end.
        engines: By the name of their base; not started yet.

    Raises:
        UserError: A name stands twice, or a run cannot be served.
    """

    def __init__(
        self, runs: list[str], room: Room, dtype: str | None = None, say: Callable[[str], None] = lambda _: None
    ) -> None:
        self.served: dict[str, Served] = {}
        self.engines: dict[str, Engine] = {}
        bases: dict[Any, _Base] = {}
        named = _named(runs)
        for name, path in named.items():
            if _holds_adapter(path):
                _put_on_its_base(bases, name, path, dtype)
            else:
                model, tokenizer = load(path, dtype)
                self._open(name, [name], [_still(model)], [tokenizer], model, room, say)
        for base in bases.values():
            word = BASE if len(bases) == 1 else f"{BASE}:{base.names[0]}"
            names, members, tokenizers = [*base.names], [*base.members], [*base.tokenizers]
            plain = _words_of(base.origin.model)
            if plain is not None and word not in self.served and word not in names:
                names.append(word)
                members.append(member_of(base.model).eval())
                tokenizers.append(plain)
            self._open(word, names, members, tokenizers, base.model, room, say)
        order = [*named, *(name for name in self.served if name not in named)]
        self.served = {name: self.served[name] for name in order}

    def start(self) -> None:
        """Start the engines."""
        for engine in self.engines.values():
            engine.start()

    def close(self) -> None:
        """End them."""
        for engine in self.engines.values():
            engine.close()

    def _open(
        self,
        word: str,
        names: list[str],
        members: list[PreTrainedModel],
        tokenizers: list[PreTrainedTokenizerBase],
        base: PreTrainedModel,
        room: Room,
        say: Callable[[str], None],
    ) -> None:
        _check_writes(names[0], base)
        side = SideBySide(base, members, [Draws() for _ in members])
        side.trunk.eval()
        side.trunk.set_attn_implementation(NAME)
        difference = prove_slots(side)
        capacity = _capacity(base, room.capacity)
        engine = Engine(side, places=room.places, capacity=capacity, queue=room.queue)
        engine.prepare()
        self.engines[word] = engine
        for place, (name, member, tokenizer) in enumerate(zip(names, members, tokenizers, strict=True)):
            ends = [frozenset(stop_ids(member, tokenizer, raw)) for raw in (False, True)]
            words: dict[str, Any] = {"ends": ends[0], "raw_ends": ends[1], "tokenizer": tokenizer}
            self.served[name] = Served(name=name, engine=engine, adapter=place, **words)
        kind = f"{type(base).__name__} on {side.trunk.device} in {str(base.dtype).removeprefix('torch.')}"
        size = f"{room.places} slots of {capacity} tokens, {engine.cache_bytes / 1e6:,.0f} MB when they are full"
        say(f"{', '.join(names)}: {kind}; equals its own forward to {difference:.1e} nats; {size}")


def _named(runs: list[str]) -> dict[str, str]:
    """Names -> what they stand for."""
    found: dict[str, str] = {}
    for run in runs:
        name, equals, path = run.partition("=")
        if not equals or Path(run).expanduser().exists():
            name, path = Path(run).expanduser().resolve().name if Path(run).expanduser().exists() else run, run
        if not name or not path:
            raise UserError("luthier serve", f"received {run!r}", "RUN or NAME=RUN", "write both sides of the =")
        if name in found:
            fix = f"give one of them a name: other={path}"
            raise UserError("luthier serve", f"two runs are called {name!r}", "a name for each", fix)
        found[name] = path
    return found


def _holds_adapter(run: str) -> bool:
    path = Path(run).expanduser()
    return is_adapter(path) or ((path / "recipe.yaml").exists() and is_adapter(path / "adapter"))


def _put_on_its_base(bases: dict[Any, _Base], name: str, path: str, dtype: str | None) -> None:
    origin = find_origin(path)
    method = method_of(origin.config, origin.adapter)
    if not (getattr(method, "SHARES_BASE", False) or getattr(method, "LEAVES_BASE", False)):
        kind = method.__name__.rpartition(".")[2]
        fix = "`luthier generate` and `luthier evaluate` run it"
        raise ModelError(f"run {path}", f"{kind}, which changes its base", "methods that leave the base as it is", fix)
    numbers = pick_dtype(dtype or origin.model.dtype, pick_device().type)
    told = origin.model.model_dump() | {"dtype": str(numbers), "adapter_name_or_path": None}
    if origin.model.quantization != "none":  # which modules a quantised base keeps as they are
        told["whole"] = origin.config.get("modules_to_save")
    key = repr(sorted(told.items()))
    if key not in bases:
        bases[key] = _Base(origin, _still(origin.load_base(numbers).to(pick_device())))
    base = bases[key]
    member = member_of(base.model)
    load_adapter(member, origin.adapter)
    tokenizer = load_words(origin)
    if tokenizer is None:
        where = f"adapter {origin.adapter}"
        raise ModelError(where, "no tokenizer, and none with its base", "tokenizer.json", "add it to the base")
    base.names.append(name)
    base.members.append(member.eval())
    base.tokenizers.append(tokenizer)


def _still(model: PreTrainedModel) -> PreTrainedModel:
    """Ready to be shared: nothing of it trains."""
    return model.eval().requires_grad_(False)


def _words_of(model: Model) -> PreTrainedTokenizerBase | None:
    """The base's own tokenizer, or None where it has none of its own."""
    try:
        return load_tokenizer(model.model_name_or_path, model.model_revision, model.trust_remote_code)
    except ModelError:
        return None


def _check_writes(name: str, model: PreTrainedModel) -> None:
    if (task := task_of_model(model)) != "CAUSAL_LM":
        fix = "`luthier generate` asks an encoder-decoder, `luthier evaluate` and `luthier predict` the others"
        raise ModelError(f"run {name}", f"a model for {task}", "a language model that goes on with its prompt", fix)


def _capacity(model: PreTrainedModel, asked: int | None) -> int:
    config = model.config.get_text_config()
    limit, why = last_position(config, model.get_decoder())
    limit = limit or getattr(config, "max_position_embeddings", None) or LONGEST
    if asked is None:
        return min(limit, LONGEST)
    if asked > limit:
        raise UserError(
            "--max-model-len", f"received {asked}", f"at most {limit}: the model has no more positions", why
        )
    return asked
