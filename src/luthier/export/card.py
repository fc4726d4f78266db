# SPDX-License-Identifier: Apache-2.0
"""README.md of an export: what it is, how it was trained and on what, how it scored, and what is known of licences.

Paths of this machine do not stand in it: of a local model or data file, its name alone does. The words of licence
that lie beside the base go with the weights.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import luthier
from luthier.export.markdown import code, prose, table
from luthier.export.usage import PIPELINES, task_in, usage
from luthier.models.failures import EMBEDDED
from luthier.models.load import locate
from luthier.recipe import entry_config
from luthier.recipe.text import one_line, parse

if TYPE_CHECKING:
    from luthier.export.origin import Origin
    from luthier.export.proof import Proof
    from luthier.export.value_proof import ValueProof

_FRONT = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
_LICENCE_ID = re.compile(r"[a-z0-9][a-z0-9.+-]*")  # as the hub lists them
_LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "COPYING")
_NOTICES = ("NOTICE", "NOTICE.txt", "USE_POLICY.md")
_COUNTS = ("rows", "kept", "truncated", "tokens", "scored_tokens")
_KEYS = {  # of a recipe's sections, what a reader would do again; of `method` and `objective` all is told
    "data": ("max_length", "packing", "loss_on", "truncation"),
    "optim": ("optim", "learning_rate", "weight_decay", "lr_scheduler_type", "warmup_ratio", "max_grad_norm"),
    "train": ("num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps"),
}
_MOST_REASONS = 6


def write_card(
    folder: Path, origin: Origin, form: str, proof: Proof | ValueProof, library: str = "transformers"
) -> None:
    """Write README.md into an export, and the base's words of licence beside it.

    Args:
        folder: The export's.
        origin: Where it comes from.
        form: What it was written as, in a few words.
        proof: How it was found to behave.
        library: What reads it: transformers, peft, luthier or gguf.
    """
    name = origin.recipe.model.model_name_or_path if origin.recipe else origin.model.model_name_or_path
    base, place, task = named(name), _place(name), task_in(origin, folder)
    about: dict[str, Any] = {"base_model": base if _on_hub(name) else None}
    about |= {"license": _licence_id(place, name), "library_name": library, "pipeline_tag": PIPELINES.get(task or "")}
    about["tags"] = ["luthier", *([origin.recipe.method["name"]] if origin.recipe else [])]
    front = "".join(f"{key}: {one_line(value)}\n" for key, value in about.items() if value)
    title = origin.run.resolve().name if origin.run else origin.adapter.resolve().name
    parts = [f"---\n{front}---\n\n# {prose(title)}\n\n{_what(origin, base, form)}"]
    parts += [usage(folder, library, task, base if _on_hub(name) else None)]
    parts += [f"## Proof\n\nRead again from disk and held against the trained model: {proof.told()}."]
    parts += [_training(origin), _data(origin), _scores(origin), _licences(place, name, _copied(place, folder))]
    (folder / "README.md").write_text("\n\n".join(filter(None, parts)) + "\n", encoding="utf-8")


def named(place: str) -> str:
    """A hub name as it is; of a path, its last part."""
    is_path = place.startswith((".", "/", "~")) or place.count("/") > 1 or Path(place).expanduser().exists()
    return Path(place).expanduser().resolve().name if is_path else place


def _on_hub(name: str) -> bool:
    """Whether others find a model by this name: no folder of this machine, none that ships with Luthier."""
    return name not in EMBEDDED and named(name) == name and _HUB_NAME.fullmatch(name) is not None


def _what(origin: Origin, base: str, form: str) -> str:
    if origin.recipe is None:
        return f"{'A model' if origin.whole else f'An adapter of {code(base)}'}, written as {form} by Luthier."
    method, objective = (getattr(origin.recipe, kind)["name"] for kind in ("method", "objective"))
    version = luthier.__version__
    return (
        f"{code(base)}, trained with method `{method}` and objective `{objective}` by Luthier {version}; form: {form}."
    )


def _training(origin: Origin) -> str:
    if origin.recipe is None:
        return ""
    tree: dict[str, Any] = origin.recipe.model_dump(mode="json")
    kept: dict[str, Any] = {"seed": tree["seed"]}
    if tree["model"]["quantization"] != "none":
        kept["model"] = {"quantization": tree["model"]["quantization"]}
    for section, keys in _KEYS.items():
        kept[section] = {key: tree[section][key] for key in keys}
    for kind in ("method", "objective"):
        given = getattr(origin.recipe, kind)
        own = entry_config(kind, given).model_dump(mode="json", exclude_none=True)
        kept[kind] = {"name": given["name"]}
        kept[kind] |= {key: _shared(value) for key, value in own.items() if value not in ({}, [], False)}
    rows = [f"{section}: {one_line(value)}" for section, value in sorted(kept.items())]
    summary = _read(origin, "summary.json")
    told = [f"{summary[key]:,} {key.replace('_', ' ')}" for key in ("steps", "scored_tokens") if key in summary]
    told += [f"{summary['trainable_parameters']:,} trained parameters"] if "trainable_parameters" in summary else []
    lines = "\n".join(rows)
    return f"## Training\n\n```yaml\n{lines}\n```\n\n{', '.join(told) or 'Its summary is not there any more'}."


def _shared(value: Any) -> Any:
    """A key's value as others may see it: of a path (a reference model, a tokenizer) its name."""
    return named(value) if isinstance(value, str) and "/" in value else value


def _data(origin: Origin) -> str:
    """The ledger: what was read, what was refused and why."""
    rows = [
        [which, code(_source(account["source"])), account["format"]]
        + [f"{account[count]:,}" for count in _COUNTS]
        + [_refused(account["refused"])]
        for which, ledger in _read(origin, "ledger.json").items()
        for account in ledger["sources"]
    ]
    if not rows:
        return ""
    head = ["set", "source", "format", *(count.replace("_", " ") for count in _COUNTS), "refused"]
    return "## Data\n\n" + table([head, *rows])


def _source(path: str) -> str:
    return path if path.startswith("embedded:") else named(path)


def _refused(refused: dict[str, Any]) -> str:
    """How many rows were refused for which reason, the most frequent first."""
    reasons = sorted(refused.items(), key=lambda item: -item[1]["count"])
    told = [f"{found['count']:,} {prose(reason)}" for reason, found in reasons[:_MOST_REASONS]]
    if left := sum(found["count"] for _, found in reasons[_MOST_REASONS:]):
        told.append(f"{left:,} for {len(reasons) - _MOST_REASONS} other reasons")
    return "; ".join(told) or "0"


def _scores(origin: Origin) -> str:
    rows = [
        [
            prose(suite),
            prose(metric),
            f"{found['value']:.4g}",
            f"{found['stderr']:.2g}" if "stderr" in found else "",
            f"{found['items']:,}" if "items" in found else "",
        ]
        for suite, metrics in _read(origin, "summary.json").get("evaluation", {}).items()
        for metric, found in metrics.items()
        if isinstance(found, dict) and isinstance(found.get("value"), int | float)
    ]
    if not rows:
        return ""
    head = ["suite", "metric", "value", "standard error", "items"]
    return "## Scores\n\nOf the run, before it was written in this form.\n\n" + table([head, *rows])


def _licences(place: Path | None, name: str, copied: list[str]) -> str:
    told, base = _licence(place, name), code(named(name))
    of_base = f"{base} says {code(told)}" if told else f"none was found beside {base}: look at its own page"
    with_it = f" Its {' and '.join(copied)} {'is' if len(copied) == 1 else 'are'} in this folder." if copied else ""
    return (
        f"## Licences\n\nOf the base: {of_base}.{with_it} A model that was trained from it is bound by it, and by the "
        "terms of its training data, which Luthier does not know."
    )


def _place(name: str) -> Path | None:
    """The folder of a base on this machine, be it in the hub's cache; None where there is none."""
    if name in EMBEDDED:
        return Path(locate(name, weights=False))
    if (folder := Path(name).expanduser()).is_dir():
        return folder
    if not _on_hub(name):
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def _licence(place: Path | None, name: str) -> str | None:
    """What the base's card says, else that there is a file."""
    if place is None:
        return None
    for folder in [place, place.parent] if name in EMBEDDED else [place]:
        try:
            front = _FRONT.match((folder / "README.md").read_text(encoding="utf-8"))
            told: Any = parse(front[1]) if front else None
        except (OSError, ValueError):
            continue
        if isinstance(told, dict) and isinstance(told.get("license"), str):
            return str(told["license"])
    return "other" if any((place / file).is_file() for file in _LICENCES) else None


def _licence_id(place: Path | None, name: str) -> str | None:
    told = _licence(place, name)
    return told if told is None or _LICENCE_ID.fullmatch(told) else "other"


def _copied(place: Path | None, folder: Path) -> list[str]:
    """Copy the words of licence: most licences ask that they go along."""
    found = [file for file in (*_LICENCES, *_NOTICES) if place is not None and (place / file).is_file()]
    for file in found:
        if place is not None and not (folder / file).exists():
            shutil.copyfile(place / file, folder / file)
    return found


def _read(origin: Origin, file: str) -> dict[str, Any]:
    """One of the run's JSON files; nothing where it was moved away."""
    try:
        found: dict[str, Any] = json.loads((origin.run / file).read_text(encoding="utf-8")) if origin.run else {}
    except (OSError, ValueError):
        return {}
    return found
