# SPDX-License-Identifier: Apache-2.0
"""A model of vectors as the package sentence-transformers reads it: files beside its weights that say how it pools.

modules.json                what a text goes through: the model, pooling, scaling to length 1
1_Pooling/config.json       which hidden states make the vector
2_Normalize/                holds nothing to be told; there where vectors are scaled
sentence_bert_config.json   how many tokens are read of a text
config_sentence_transformers.json   what two vectors are compared by
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from luthier.core.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MODULES, POOLING = "modules.json", "1_Pooling/config.json"
# Our poolings in the words of the package: a switch for each, as all of its versions read them; and its own, since 6.
_SWITCHES = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token", "last": "pooling_mode_lasttoken"}
_OTHERS = ("pooling_mode_max_tokens", "pooling_mode_mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens")
_WORDS = {"mean": "mean", "cls": "cls", "lasttoken": "last"}
_KNOWN = ("Transformer", "Pooling", "Normalize", "Dropout")  # the last one does nothing once training is over


def write_modules(folder: Path, objective: Mapping[str, Any], *, width: int, most: int | None) -> None:
    """Write these files beside the weights of a model of vectors.

    Args:
        folder: Holds weights, configuration and tokenizer.
        objective: Its keys say how vectors are pooled, and whether they are scaled.
        width: Numbers of a vector.
        most: Tokens that are read of a text; None: as many as the model takes.
    """
    normalize, pooling = objective.get("normalize", True), objective.get("pooling", "mean")
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    paths = ["", *(f"{place}_{kind}" for place, kind in enumerate(kinds[1:], 1))]
    modules = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for place, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    switches: dict[str, Any] = {key: how == pooling for how, key in _SWITCHES.items()} | dict.fromkeys(_OTHERS, False)
    for path in paths:
        (folder / path).mkdir(exist_ok=True)
    _write(folder / MODULES, modules)
    _write(folder / POOLING, {"word_embedding_dimension": width, **switches, "include_prompt": True})
    if most is not None:
        _write(folder / "sentence_bert_config.json", {"max_seq_length": most, "do_lower_case": False})
    told: dict[str, Any] = {
        "prompts": {},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine" if normalize else "dot",
    }
    _write(folder / "config_sentence_transformers.json", told)


def read_pooling(folder: Path) -> str:
    """How a folder's vectors are pooled: what its files say, `mean` where there are none.

    Raises:
        ModelError: They ask for another pooling, or for modules besides.
    """
    where = f"model {folder}"
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in _read(folder / MODULES, list, where) or []]
    if odd := [kind for kind in kinds if kind not in _KNOWN]:
        received = f"{MODULES} names the module {odd[0]}"
        raise ModelError(where, received, ", ".join(_KNOWN), "use sentence-transformers for it")
    told = _read(folder / POOLING, dict, where)
    if not told:
        return "mean"
    switched = [key for key, value in told.items() if key.startswith("pooling_mode_") and value is True]
    word: Any = told.get("pooling_mode")
    asked = [word] if isinstance(word, str) else list(word or ()) or switched or ["mean"]
    known = _WORDS | {key: how for how, key in _SWITCHES.items()}
    if len(asked) > 1 or asked[0] not in known:
        received = f"{POOLING} asks for {' and '.join(map(str, asked))}"
        raise ModelError(where, received, f"one of {', '.join(_WORDS)}", "use sentence-transformers for it")
    return known[asked[0]]


def _read(file: Path, kind: type, where: str) -> Any:
    """A JSON file of a kind, None where there is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ModelError(where, f"{file.name} cannot be read ({error})", "a JSON file", "restore it") from None
    inner: list[Any] = found if isinstance(found, list) else []
    if not isinstance(found, kind) or not all(isinstance(one, dict) for one in inner):
        raise ModelError(where, f"{file.name} holds {type(found).__name__}", "what its package wrote", "restore it")
    return found


def _write(file: Path, tree: Any) -> None:
    file.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
