# SPDX-License-Identifier: Apache-2.0
"""Which modules a method rewires: the model's tree by kind, and the words of `target_modules`.

Everything that could leave a layer out in silence is an error here: a name that is not there, a pattern that matches
nothing, a norm among the targets, and experts that are stored as one three-dimensional parameter.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Literal

from torch import nn
from transformers.pytorch_utils import Conv1D

from luthier.core.errors import RecipeError
from luthier.models.heads import unread
from luthier.models.source_target import is_encoder_decoder, refuse_unread
from luthier.models.ties import head_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Kind = Literal["attention", "mlp", "norm", "embedding", "head", "other"]
Words = str | Collection[str]

_ATTENTION = re.compile(r"(^|[._])(self_?attn|attn|attention|self_attention|SelfAttention|EncDecAttention)([._]|$)")
_MLP = re.compile(  # BERT's linears are `intermediate.dense` and, right in the layer, `output.dense`
    r"(^|[._])(mlp|ffn|feed_forward|moe|block_sparse_moe|experts?|fc1|fc2|fc_in|fc_out|dense_h_to_4h|dense_4h_to_h|"
    r"DenseReluDense|intermediate)([._]|$)|\.\d+\.output(\.|$)"
)
_HEADS = ("lm_head", "embed_out", "score", "classifier", "qa_outputs")
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

WORDS: dict[str, tuple[Kind, ...]] = {"attention": ("attention",), "mlp": ("mlp",)}
WORDS["all-linear"] = ("attention", "mlp", "other")


def is_linear(module: nn.Module) -> bool:
    """A matrix product with stored weights: torch's Linear or transformers' Conv1D (GPT-2, transposed)."""
    return isinstance(module, nn.Linear | Conv1D)


def is_adaptable(module: nn.Module) -> bool:
    """What a low-rank update goes on: a linear or an embedding."""
    return is_linear(module) or isinstance(module, nn.Embedding)


def kind_of(name: str, module: nn.Module, head: nn.Module | None = None) -> Kind:
    """Sort one leaf module by what it is and where it stands."""
    if module is head or name.split(".")[-1] in _HEADS:
        return "head"
    if isinstance(module, nn.Embedding):
        return "embedding"
    if "norm" in type(module).__name__.lower():
        return "norm"
    if _ATTENTION.search(name):
        return "attention"
    return "mlp" if _MLP.search(name) else "other"


def layer_number(name: str) -> int | None:
    """The layer a module stands in (the first number in its name), or None.

    Example:
        >>> layer_number("model.layers.3.mlp.experts.0.up_proj"), layer_number("lm_head")
        (3, None)
    """
    return next((int(part) for part in name.split(".") if part.isdecimal()), None)


def ends_with(name: str, ending: str) -> bool:
    """Whether a dotted name is, or ends in, these whole components.

    Example:
        >>> ends_with("layers.0.q_proj", "q_proj"), ends_with("layers.0.q_proj", "proj")
        (True, False)
    """
    return name == ending or name.endswith(f".{ending}")


def stacked_experts(model: nn.Module) -> list[str]:
    """Parameters that hold the matrices of many experts in one, [E, N, K]: no layer stands there to be wrapped."""
    return [
        f"{name}.{leaf}"
        for name, module in model.named_modules()
        if not isinstance(module, _CONVOLUTIONS)
        for leaf, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 3 and min(parameter.shape) > 1
    ]


def find_targets(
    model: nn.Module,
    target_modules: Words,
    *,
    exclude_modules: Words | None = None,
    layers_to_transform: Collection[int] | None = None,
    where: str = "method",
) -> dict[str, nn.Module]:
    """Resolve `target_modules` to linear and embedding layers, in the model's order.

    Args:
        model: The plain model.
        target_modules: A list of name endings (`q_proj`, `self_attn.q_proj`) and words, one word, or a regular
            expression that matches whole names. The words: `all-linear` (every linear layer but the head),
            `attention`, `mlp`; of a multimodal model they reach the text decoder only.
        exclude_modules: Name endings or a regular expression to leave out, with everything inside them.
        layers_to_transform: Only these layers, counted from 0.
        where: The recipe's section, for errors.

    Raises:
        RecipeError: A word, a pattern, an exclusion or a layer number matches nothing; something that matches is no
            linear or embedding layer; or a word reaches stacked experts (exclude them to leave them frozen).
    """
    modules = {name: module for name, module in model.named_modules() if name}
    kept = not_excluded(modules, exclude_modules, f"{where}.exclude_modules")
    kept &= _in_layers(modules, layers_to_transform, f"{where}.layers_to_transform")
    head, key = head_of(model), f"{where}.target_modules"
    tree = _Tree(modules=modules, kept=frozenset(kept), decoder=frozenset(in_decoder(model)), head=head, key=key)
    words = [target_modules] if isinstance(target_modules, str) else list(target_modules)
    if not words:
        raise RecipeError(tree.key, "an empty list", f"name endings, or one of {', '.join(WORDS)}", "name some layers")
    found: set[str] = set()
    for word in words:
        if word.lower() in WORDS:
            found |= _by_word(tree, word.lower(), stacked_experts(model))
        elif isinstance(target_modules, str):
            found |= _by_pattern(tree, word)
        else:
            found |= _by_ending(tree, word)
    refuse_unread(model, found, key)
    return {name: module for name, module in modules.items() if name in found}


def endings_of(names: Collection[str], every: Iterable[str]) -> list[str]:
    """The shortest name endings that match these modules and no other, as PEFT reads a list of targets.

    Args:
        names: Modules that are to be matched.
        every: All modules of the model.

    Returns:
        Leaf names where they say enough, longer endings where not, whole names where only some layers are meant.

    Example:
        >>> every = ["h.0.attn.c_proj", "h.0.mlp.c_proj", "h.0.attn.c_attn"]
        >>> endings_of(["h.0.attn.c_proj", "h.0.attn.c_attn"], every)
        ['attn.c_proj', 'c_attn']
    """
    chosen = set(names)
    taken = {ending for name in every if name not in chosen for ending in _endings(name)}
    return sorted({next((e for e in _endings(name) if e not in taken), name) for name in chosen})


def nearest(word: str, known: Iterable[str]) -> str:
    """`did you mean 'q_proj'?` where something known is close, else nothing."""
    close = get_close_matches(word, sorted(set(known)), n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else ""


@dataclass(frozen=True, kw_only=True)
class _Tree:
    modules: dict[str, nn.Module]
    kept: frozenset[str]  # what exclude_modules and layers_to_transform leave
    decoder: frozenset[str]  # what the words reach
    head: nn.Module | None
    key: str  # the recipe key that errors name

    def leaves(self) -> set[str]:
        return {name.split(".")[-1] for name, module in self.modules.items() if is_adaptable(module)}

    def said(self) -> str:
        return f"the model's linear and embedding layers end in {', '.join(sorted(self.leaves()))}"


def _by_word(tree: _Tree, word: str, experts: list[str]) -> set[str]:
    within = tree.kept & tree.decoder
    reached = [name for name in experts if name.rpartition(".")[0] in within]
    if word != "attention" and reached:
        raise RecipeError(
            tree.key,
            f"{word!r} cannot reach the experts: {reached[0]} and {len(reached) - 1} more hold all experts in one",
            "linear and embedding layers",
            "name the layers, or leave the experts frozen on purpose with exclude_modules: [experts]",
        )
    found = {
        name for name in within if is_linear(m := tree.modules[name]) and kind_of(name, m, tree.head) in WORDS[word]
    }
    if not found:
        raise RecipeError(tree.key, f"{word!r} finds no layer", tree.said(), "name endings from that list")
    return found


def _by_ending(tree: _Tree, word: str) -> set[str]:
    matched = {name for name in tree.modules if ends_with(name, word)}
    if not matched:
        fix = nearest(word, tree.leaves()) or "name endings from that list"
        raise RecipeError(tree.key, f"{word!r} names no layer of this model", tree.said(), fix)
    if not matched & tree.kept:
        why = "exclude_modules and layers_to_transform leave nothing of it"
        raise RecipeError(tree.key, f"{word!r}: {why}", fix="take it out of target_modules, or let some of it in")
    for name in sorted(matched & tree.kept):
        _refuse_other_kinds(tree, word, name)
    return matched & tree.kept


def _by_pattern(tree: _Tree, text: str) -> set[str]:
    pattern = _compiled(text, tree.key)
    matched = {name for name in tree.kept if pattern.fullmatch(name)}
    for name in sorted(matched):  # blocks and activations that match hold no weights of their own
        if next(tree.modules[name].parameters(recurse=False), None) is not None:
            _refuse_other_kinds(tree, text, name)
    found = {name for name in matched if is_adaptable(tree.modules[name])}
    if not found:
        plain = text.isidentifier()
        fix = f"a name ending goes into a list: [{text}]" if plain else "mind that it must match whole names"
        raise RecipeError(tree.key, f"the regular expression {text!r} matches no layer", tree.said(), fix)
    return found


def _refuse_other_kinds(tree: _Tree, word: str, name: str) -> None:
    module = tree.modules[name]
    if is_adaptable(module):
        return
    inside = sorted({below.split(".")[-1] for below, m in module.named_modules() if is_linear(m)})
    fix = f"name the layers in it: {', '.join(inside)}" if inside else "train it with modules_to_save, or exclude it"
    if kind_of("", module) == "norm":
        fix = "choose `method: norm` to train norms alone, or name it in modules_to_save to train it beside"
    received = f"{word!r} matches {name}, a {type(module).__name__}"
    raise RecipeError(tree.key, received, "linear and embedding layers", fix)


def not_excluded(modules: dict[str, nn.Module], exclude: Words | None, key: str) -> set[str]:
    """Names that `exclude_modules` leaves; what is inside an excluded module is excluded with it.

    Raises:
        RecipeError: Of this key, if an ending or a regular expression matches nothing.
    """
    if exclude is None:
        return set(modules)
    left_out: set[str] = set()
    for word in [exclude] if isinstance(exclude, str) else exclude:
        if isinstance(exclude, str):
            pattern = _compiled(word, key)
            matched = {name for name in modules if pattern.fullmatch(name)}
        else:
            matched = {name for name in modules if ends_with(name, word)}
        if not matched:
            parts = {part for name in modules for part in name.split(".") if not part.isdecimal()}
            raise RecipeError(key, f"{word!r} matches no module", fix=nearest(word, parts) or "correct or remove it")
        left_out |= matched
    inside = tuple(f"{name}." for name in left_out)  # excluding a block excludes what is in it
    return {name for name in modules if name not in left_out and not name.startswith(inside)}


def in_decoder(model: nn.Module) -> set[str]:
    """Modules that text runs through; of towers for images and sound, and poolers nobody reads, updates stay zero."""
    decoder: nn.Module = getattr(model, "get_decoder", lambda: model)()
    stacks = [decoder, model.get_encoder()] if is_encoder_decoder(model) else [decoder]  # type: ignore[operator]
    inside = {id(module) for stack in stacks for module in stack.modules()}
    return {name for name, module in model.named_modules() if id(module) in inside} - unread(model)


def _in_layers(modules: dict[str, nn.Module], layers: Collection[int] | None, key: str) -> set[str]:
    if layers is None:
        return set(modules)
    there = {number for name in modules if (number := layer_number(name)) is not None}
    unknown = sorted(set(layers) - there)
    if unknown or not layers:
        received = f"layer {unknown[0]}" if unknown else "no layer"
        allowed = f"layers {min(there)} to {max(there)}" if there else "a model with numbered layers"
        raise RecipeError(key, received, allowed, "correct it, or leave it out for all layers")
    return {name for name in modules if layer_number(name) in set(layers)}


def _compiled(pattern: str, key: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise RecipeError(
            key,
            f"{pattern!r} is no regular expression ({error})",
            f"a list of name endings, a regular expression, or one of {', '.join(WORDS)}",
            "mend it, or write name endings as a list: [q_proj, v_proj]",
        ) from None


def _endings(name: str) -> Iterator[str]:
    """Endings from the leaf on, never beginning inside a numbered layer; then the whole name."""
    parts = name.split(".")
    for start in range(len(parts) - 1, 0, -1):
        if parts[start].isdecimal():
            break
        yield ".".join(parts[start:])
    yield name
