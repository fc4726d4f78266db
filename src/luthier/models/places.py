# SPDX-License-Identifier: Apache-2.0
"""Where trained parameters stand in a model: the words that `optim.groups` has for them, and their depth."""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import nn

from luthier.core.errors import RecipeError
from luthier.models.layers import find_layers
from luthier.models.targets import kind_of, nearest
from luthier.models.ties import head_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from luthier.core.trainable import Trainable

WORDS = {"embeddings": "embedding", "head": "head", "norms": "norm", "attention": "attention", "mlp": "mlp"}
_LAYERS = re.compile(r"layers\[(\d+)(?:-(\d+))?\]")


class Places:
    """Where each trained parameter stands in the model; looked at only when a word asks for it.

    Args:
        trainable: What trains, with its model.
    """

    def __init__(self, trainable: Trainable) -> None:
        self.trainable = trainable
        self.parameters = {name: p for group in trainable.groups for name, p in group.parameters.items()}

    @cached_property
    def _modules(self) -> dict[str, nn.Module]:
        return dict(self.trainable.model.named_modules(remove_duplicate=False))

    @cached_property
    def _paths(self) -> dict[str, tuple[str, ...]]:
        """Name -> where the model has it; a tied matrix is in several places."""
        there: dict[int, list[str]] = {}
        for path, parameter in self.trainable.model.named_parameters(remove_duplicate=False):
            there.setdefault(id(parameter), []).append(path)
        return {name: tuple(there[id(parameter)]) for name, parameter in self.parameters.items()}

    @cached_property
    def _kinds(self) -> dict[str, set[str]]:
        head = head_of(self.trainable.model)
        return {name: {k for path in paths for k in self._kinds_of(path, head)} for name, paths in self._paths.items()}

    def _kinds_of(self, path: str, head: nn.Module | None) -> set[str]:
        """Kinds of the modules around a parameter; a wrapper is what it wraps."""
        parts = path.split(".")[:-1]
        found: set[str] = set()
        for end in range(1, len(parts) + 1):
            name = ".".join(parts[:end])
            module = self._modules[name]
            kind = kind_of(name, module, head)
            wraps = isinstance(getattr(module, "base_layer", None), nn.Embedding)
            found.add("embedding" if wraps and kind != "head" else kind)
        special: set[str] = found & {"head", "embedding", "norm"}
        return special or found - {"other"}

    def _stacks(self, where: str) -> list[tuple[str, int, str]]:
        """Name and length of each list of layers, from the lowest, and what it is called where there are two."""
        model: Any = self.trainable.model
        if not getattr(getattr(model, "config", None), "is_encoder_decoder", False):
            return [(*find_layers(model, where), "")]
        names = {id(module): name for name, module in self._modules.items()}
        found = []
        for stack, called in ((model.get_encoder(), "encoder "), (model.get_decoder(), "decoder ")):
            name, count = find_layers(stack, where)
            found.append((f"{names[id(stack)]}.{name}", count, called))
        return found

    def _layer(self, name: str, where: str) -> tuple[int, int, str] | None:
        """The layer a parameter stands in: its number in its stack, from below in all of them, and its stack's word."""
        below = 0
        for layers, count, called in self._stacks(where):
            for path in self._paths[name]:
                if path.startswith(f"{layers}."):
                    number = int(path[len(layers) + 1 :].split(".")[0])
                    return number, below + number, called
            below += count
        return None

    def depth(self, name: str, where: str) -> tuple[int, str]:
        """How many times layer-wise decay falls on a parameter, and what that depth is called."""
        layer, count = self._layer(name, where), sum(count for _, count, _ in self._stacks(where))
        if layer is not None:
            return count - layer[1], f"{layer[2]}layers[{layer[0]}]"
        kinds = self._kinds[name]
        beside = "head" not in kinds and any("embed" in path for path in self._paths[name])  # norms of embeddings
        if "embedding" in kinds or beside:  # a tied matrix is one: its place is below all layers
            return count + 1, "embeddings"
        return 0, "head"  # and the norm before it

    def matched(self, words: Collection[str], where: str) -> list[str]:
        """Names that any of these words means, each of which means something.

        Raises:
            RecipeError: One does not.
        """
        found: set[str] = set()
        for word in words:
            if word in WORDS:
                names = {name for name in self.parameters if WORDS[word] in self._kinds[name]}
            elif word == "biases":
                names = {name for name in self.parameters if name.split(".")[-1] == "bias"}
            elif match := _LAYERS.fullmatch(word):
                names = self._in_layers(int(match[1]), int(match[2] or match[1]), word, where)
            else:
                names = self._by_pattern(word, where)
            if not names:
                raise RecipeError(where, f"{word!r} matches nothing that trains", self._said(), self._fix(word))
            found |= names
        return [name for name in self.parameters if name in found]

    def _in_layers(self, first: int, last: int, word: str, where: str) -> set[str]:
        count = max(count for _, count, _ in self._stacks(where))
        if not first <= last < count:
            raise RecipeError(where, word, f"layers[0] to layers[{count - 1}], or layers[0-{count - 1}]", "correct it")
        return {name for name in self.parameters if (n := self._layer(name, where)) and first <= n[0] <= last}

    def _by_pattern(self, word: str, where: str) -> set[str]:
        try:
            pattern = re.compile(word)
        except re.error as error:
            received = f"{word!r} is no regular expression ({error})"
            raise RecipeError(where, received, f"{', '.join(WORDS)}, biases, or one", "mend it") from None
        return {name for name in self.parameters if pattern.search(name)}

    def _leaves(self) -> list[str]:
        return sorted({".".join(p for p in name.split(".")[-3:] if not p.isdecimal()) for name in self.parameters})

    def _said(self) -> str:
        kinds = {kind for kinds in self._kinds.values() for kind in kinds}
        words = [word for word, kind in WORDS.items() if kind in kinds]
        words += ["biases"] * any(name.endswith("bias") for name in self.parameters)
        leaves = self._leaves()
        more = f" and {len(leaves) - 6} more" if len(leaves) > 6 else ""
        return (
            f"what trains is {', '.join(words) or 'in no group of words'}; names end in {', '.join(leaves[:6])}{more}"
        )

    def _fix(self, word: str) -> str:
        parts = {part for name in self.parameters for part in name.split(".") if not part.isdecimal()}
        return nearest(word, {*parts, *WORDS, "biases"}) or "correct or remove it"
