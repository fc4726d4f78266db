# SPDX-License-Identifier: Apache-2.0
"""rsLoRA for servers that ignore `use_rslora`: the same adapter as plain LoRA, with another `lora_alpha`.

    alpha / sqrt(r)  =  (alpha sqrt(r)) / r

Only adapter_config.json changes. What it said before is kept in luthier.json, which PEFT and servers do not read.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import UserError
from luthier.export.adapter import load_adapter, read_config, read_tensors
from luthier.export.card import write_card
from luthier.export.folder import new_folder
from luthier.export.held_out import load_words
from luthier.export.merge import Exported, comparison_of, load_base
from luthier.export.origin import find_origin
from luthier.methods._peft import by_pattern, patterns_for, whole_number

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_ENDINGS = (".lora_A.weight", ".lora_embedding_A")
_FOLDED = ("use_rslora", "lora_alpha", "alpha_pattern")
_OWN = ("adapter_config.json", "luthier.json", "README.md")


def fold_rslora(given: Mapping[str, Any], ranks: Mapping[str, int]) -> dict[str, Any]:
    """Write an rsLoRA configuration as plain LoRA's.

    Args:
        given: adapter_config.json.
        ranks: r of each adapted layer.

    Returns:
        The configuration with `use_rslora: false` and each layer's `lora_alpha` multiplied by the root of its r.

    Example:
        >>> given = {"r": 16, "lora_alpha": 8, "use_rslora": True, "rank_pattern": {"up": 4}}
        >>> folded = fold_rslora(given, {"h.0.up": 4, "h.0.down": 16})
        >>> folded["lora_alpha"], folded["alpha_pattern"]
        (32, {'up': 16})
    """
    old: dict[str, float] = given.get("alpha_pattern") or {}
    default = whole_number(given["lora_alpha"] * math.sqrt(given["r"]))
    alphas = {
        name: whole_number(by_pattern(old, name, given["lora_alpha"]) * math.sqrt(r)) for name, r in ranks.items()
    }
    return {**given, "use_rslora": False, "lora_alpha": default, "alpha_pattern": patterns_for(alphas, default)}


def make_portable(
    source: str | Path,
    output: str | Path | None = None,
    *,
    base: str | None = None,
    texts: Sequence[str] = (),
    bound: float | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Exported:
    """Write an rsLoRA adapter again as a plain LoRA adapter that computes the same.

    Args:
        source: A run folder, or a PEFT adapter folder of any origin.
        output: The new folder; default `portable` in the run, or beside the adapter.
        base: The base model, where it is not where the adapter says.
        texts: Compare on these instead of the run's held-out rows.
        bound: Mean KL in nats at most.
        overwrite: Replace an earlier export.
        say: Receives one line at a time.

    Raises:
        UserError: The adapter is no rsLoRA, or something stands in the output's place.
        RunFailed: Both adapters do not compute the same; no folder is left.

    Reference:
        Kalajdzievski, A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA, arXiv 2312.03732.
    """
    origin = find_origin(source, base)
    if not origin.config.get("use_rslora"):
        fix = "every server that reads PEFT folders scales it right as it is"
        raise UserError(f"adapter {source}", "use_rslora is false: nothing to fold", "an rsLoRA adapter", fix)
    final = Path(output).expanduser() if output else origin.beside("portable")
    with new_folder(final, overwrite=overwrite, inputs=origin.inputs) as folder:
        model, _ = load_base(origin, "float32")
        trainable = load_adapter(model, origin.adapter)
        comparison = comparison_of(model, origin, load_words(origin), texts, say)
        comparison.remember(model)
        with trainable.disabled():
            comparison.measure_base(model)
        folded = _write(origin.adapter, folder)
        say(f"lora_alpha {origin.config['lora_alpha']} with use_rslora is {folded['lora_alpha']:.6g} without")
        del model, trainable
        again, dtype = load_base(origin, "float32")
        load_adapter(again, folder)
        proof = comparison.prove(again, dtype=dtype, bound=bound)
        proof.demand(str(final))
        about = {"folded_from": {key: origin.config.get(key) for key in _FOLDED}, "proof": proof.to_json()}
        (folder / "luthier.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        write_card(folder, origin, "a plain LoRA adapter", proof, "peft")
    return Exported(folder=final, proof=proof)


def _write(adapter: Path, folder: Path) -> dict[str, Any]:
    """Copy the adapter's files, all but the configuration, which is folded."""
    for file in sorted(adapter.iterdir()):
        if file.is_file() and file.name not in _OWN and file.suffix != ".bin":  # a pickle is never passed on
            shutil.copyfile(file, folder / file.name)
    tensors = read_tensors(adapter)
    ranks = {n.removesuffix(end): t.shape[0] for n, t in tensors.items() for end in _ENDINGS if n.endswith(end)}
    folded = fold_rslora(read_config(adapter), ranks)
    (folder / "adapter_config.json").write_text(json.dumps(folded, indent=2) + "\n", encoding="utf-8")
    return folded
