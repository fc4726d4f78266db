# SPDX-License-Identifier: Apache-2.0
"""README.md of an export: what it is, how it was trained and on what, how it scored, and what is known of licences.

Paths of this machine do not stand in it: of a local model or data file, its name alone does.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import luthier
from luthier.models.failures import EMBEDDED
from luthier.models.load import locate
from luthier.recipe import entry_config
from luthier.recipe.text import one_line, parse

if TYPE_CHECKING:
    from luthier.export.origin import Origin
    from luthier.export.proof import Proof
    from luthier.export.value_proof import ValueProof

_FRONT = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
_LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "COPYING")
_COUNTS = ("rows", "kept", "truncated", "tokens", "scored_tokens")


def write_card(
    folder: Path, origin: Origin, form: str, proof: Proof | ValueProof | None, library: str = "transformers"
) -> None:
    """Write README.md into an export.

    Args:
        folder: The export's.
        origin: Where it comes from.
        form: What it was written as, in a few words.
        proof: How it was found to behave; None of what training itself wrote, which nothing was made of.
        library: What reads it.
    """
    base = named(origin.recipe.model.model_name_or_path if origin.recipe else origin.model.model_name_or_path)
    about = {"base_model": base} | _licence(origin) | {"library_name": library, "tags": ["luthier"]}
    front = "".join(f"{key}: {one_line(value)}\n" for key, value in about.items() if value)
    title = origin.run.resolve().name if origin.run else origin.adapter.resolve().name
    parts = [f"---\n{front}---\n\n# {title}\n\n{_what(origin, base, form)}"]
    parts += [f"## Proof\n\nRead again from disk and held against the trained model: {proof.told()}."] if proof else []
    parts += [_training(origin), _data(origin), _scores(origin), _licences(origin, base)]
    (folder / "README.md").write_text("\n\n".join(filter(None, parts)) + "\n", encoding="utf-8")


def named(place: str) -> str:
    """A hub name as it is; of a path, its last part."""
    is_path = place.startswith((".", "/", "~")) or place.count("/") > 1 or Path(place).expanduser().exists()
    return Path(place).expanduser().resolve().name if is_path else place


def _what(origin: Origin, base: str, form: str) -> str:
    if origin.recipe is None:
        return f"{'A model' if origin.whole else f'An adapter of `{base}`'}, written as {form} by Luthier."
    method, objective = (getattr(origin.recipe, kind)["name"] for kind in ("method", "objective"))
    version = luthier.__version__
    return f"`{base}`, trained with method `{method}` and objective `{objective}` by Luthier {version}; form: {form}."


def _training(origin: Origin) -> str:
    if origin.recipe is None:
        return ""
    tree: dict[str, Any] = origin.recipe.model_dump(mode="json", exclude_defaults=True)
    kept: dict[str, Any] = {key: value for key, value in tree.items() if key in ("optim", "seed")}
    for kind in ("method", "objective"):
        given = getattr(origin.recipe, kind)
        own = entry_config(kind, given).model_dump(mode="json", exclude_defaults=True)
        kept[kind] = {"name": given["name"], **own}
    rows = [f"{section}: {one_line(value)}" for section, value in sorted(kept.items())]
    summary = _read(origin, "summary.json")
    told = [f"{summary[key]:,} {key.replace('_', ' ')}" for key in ("steps", "scored_tokens") if key in summary]
    told += [f"{summary['trainable_parameters']:,} trained parameters"] if "trainable_parameters" in summary else []
    lines = "\n".join(rows)
    return f"## Training\n\n```yaml\n{lines}\n```\n\n{', '.join(told) or 'Its summary is not there any more'}."


def _data(origin: Origin) -> str:
    """The ledger: what was read, what was refused and why."""
    rows = [
        [which, f"`{_source(account['source'])}`", account["format"]]
        + [f"{account[count]:,}" for count in _COUNTS]
        + ["; ".join(f"{refusal['count']} {reason}" for reason, refusal in account["refused"].items()) or "0"]
        for which, ledger in _read(origin, "ledger.json").items()
        for account in ledger["sources"]
    ]
    if not rows:
        return ""
    head = ["set", "source", "format", *(count.replace("_", " ") for count in _COUNTS), "refused"]
    return "## Data\n\n" + _table([head, *rows])


def _source(path: str) -> str:
    return path if path.startswith("embedded:") else named(path)


def _scores(origin: Origin) -> str:
    rows = [
        [suite, metric, f"{found['value']:.4g}", f"{found['stderr']:.2g}" if "stderr" in found else ""]
        for suite, metrics in _read(origin, "summary.json").get("evaluation", {}).items()
        for metric, found in metrics.items()
        if isinstance(found, dict) and isinstance(found.get("value"), int | float)
    ]
    if not rows:
        return ""
    head = ["suite", "metric", "value", "standard error"]
    return "## Scores\n\nOf the run, before it was written in this form.\n\n" + _table([head, *rows])


def _table(rows: list[list[str]]) -> str:
    lines = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows]
    return "\n".join([f"| {lines[0]} |", f"|{'---|' * len(rows[0])}", *(f"| {line} |" for line in lines[1:])])


def _licences(origin: Origin, base: str) -> str:
    told = _licence(origin).get("license")
    of_base = f"`{base}` says `{told}`" if told else f"none was found beside `{base}`: look at its own page"
    return (
        f"## Licences\n\nOf the base: {of_base}. A model that was trained from it is bound by it, and by the terms of "
        "its training data, which Luthier does not know."
    )


def _licence(origin: Origin) -> dict[str, str]:
    """What the base's card says, else that there is a file."""
    name = origin.recipe.model.model_name_or_path if origin.recipe else origin.model.model_name_or_path
    place = Path(locate(name, weights=False)) if name in EMBEDDED else Path(name).expanduser()
    for folder in [place, place.parent] if name in EMBEDDED else [place]:
        try:
            front = _FRONT.match((folder / "README.md").read_text(encoding="utf-8"))
            told: Any = parse(front[1]) if front else None
        except (OSError, ValueError):
            continue
        if isinstance(told, dict) and isinstance(told.get("license"), str):
            return {"license": told["license"]}
    return {"license": "other"} if any((place / file).is_file() for file in _LICENCES) else {}


def _read(origin: Origin, file: str) -> dict[str, Any]:
    """One of the run's JSON files; nothing where it was moved away."""
    try:
        found: dict[str, Any] = json.loads((origin.run / file).read_text(encoding="utf-8")) if origin.run else {}
    except (OSError, ValueError):
        return {}
    return found
