# SPDX-License-Identifier: Apache-2.0
"""What the numbers stand on: claims, how the recipes differ, what was held equal, machine and versions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from luthier.web.forms import DASH, ends, known, signed, size
from luthier.web.markup import Markup, both, foreign, joined, tag
from luthier.web.sections._pieces import note, table

if TYPE_CHECKING:
    from luthier.web.gather import Found

_LONG = 60  # letters of a value; the middle of a longer one is left out
_SIGNS = {"holds": "✓", "fails": "✕", "open": "?"}


def claims(found: Found) -> Markup:
    """What the study set out to test, and what became of it."""
    if not found.claims:
        return Markup("")
    rows = [_claim(claim) for claim in found.claims]
    heads = [both(f"head_{head}") for head in ("claim", "outcome", "estimate")]
    return table(both("claims_table"), heads, rows, name="claims", left=(1,))


def _claim(claim: dict[str, Any]) -> list[Any]:
    text = next((str(claim[key]) for key in ("claim", "text", "says", "name") if claim.get(key)), json.dumps(claim))
    held = next((claim[key] for key in ("holds", "held", "outcome", "verdict") if claim.get(key) is not None), None)
    word = {True: "holds", False: "fails"}.get(held) if isinstance(held, bool) else None
    outcome: Any = both(f"claim_{word or 'open'}") if word or held is None else foreign(str(held))
    value = next((claim[key] for key in ("value", "delta", "estimate", "difference") if known(claim.get(key))), None)
    low, high = (claim.get(f"delta_{end}", claim.get(end)) for end in ("low", "high"))
    reach = ends(low, high, sign=True)
    said = tag("span", _SIGNS[word or "open"], aria_hidden="true")
    cell = tag("td", said, " ", outcome, class_=f"left claim-{word or 'open'}")
    return [foreign(text), cell, joined(signed(value), " ", tag("span", reach, class_="ends"))]


def differences(found: Found) -> Markup:
    """The keys in which the variants' recipes differ, and what that leaves uncontrolled."""
    said = tag("p", foreign(found.controlled)) if found.controlled else None
    variants = list(dict.fromkeys(variant for values in found.differing.values() for variant in values))
    rows, owned = [], []
    for key, values in found.differing.items():
        given = [value for value in values.values() if value is not None]
        if given and len(given) < len(values) and all(v == given[0] for v in given) and key != "method.name":
            owned.append(joined(tag("code", key), " = ", tag("code", _short(given[0]))))
        else:
            cells = [DASH if values.get(v) is None else tag("code", _short(values[v])) for v in variants]
            rows.append([tag("code", key), *cells])
    if not rows and not said:
        return Markup("")
    grid = table(both("differing"), [both("head_key"), *variants], rows, name="differing") if rows else None
    same = tag("p", both("owned"), " ", [[", " if n else "", one] for n, one in enumerate(owned)], ".", class_="note")
    return joined(said, grid, same if owned else None)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONG else f"{text[:28]}…{text[-28:]}"


def environment(found: Found) -> Markup:
    """Hardware and versions of the runs, each value once where they agree."""
    facts: dict[str, list[str]] = {}
    for run in found.runs:
        for key, value in _facts(run.summary).items():
            if value not in facts.setdefault(key, []):
                facts[key].append(value)
    if found.seeds and not found.alone:
        facts = {"seeds": [", ".join(map(str, found.seeds))], **facts}
    rows = [[both(f"fact_{key}") if key in _NAMED else key, " / ".join(values)] for key, values in facts.items()]
    notes = [tag("li", foreign(line)) for line in found.notes]
    said = tag("ul", notes, class_="notes") if notes else None
    folder = note("folder", path=tag("code", found.folder.name))
    if not rows:
        return joined(folder, said)
    heads = [both("head_fact"), both("head_value")]
    return joined(table(both("environment_table"), heads, rows, name="environment"), said, folder)


_NAMED = {"seeds", "processor", "cores", "threads", "memory", "gpu", "dtype", "runs_at_a_time"}


def _facts(summary: dict[str, Any]) -> dict[str, str]:
    hardware = summary.get("hardware") or {}
    made = {key: hardware.get(key) for key in ("processor", "cores", "threads", "gpu")}
    made["memory"] = size(hardware["memory_bytes"]) if hardware.get("memory_bytes") else None
    made |= {"dtype": summary.get("dtype"), "runs_at_a_time": summary.get("runs_at_a_time")}
    made |= summary.get("versions") or {}
    return {key: str(value) for key, value in made.items() if value is not None}
