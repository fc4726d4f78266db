# SPDX-License-Identifier: Apache-2.0
"""What the numbers stand on: claims, how the recipes differ, what was held equal, machine and versions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from luthier.web.forms import DASH, ends, p_value, signed, size
from luthier.web.markup import Markup, both, foreign, joined, tag, told
from luthier.web.sections._pieces import grid, note, table

if TYPE_CHECKING:
    from luthier.web.gather import Found

_LONG = 60  # letters of a value; the middle of a longer one is left out
_SIGNS = {"holds": "✓", "fails": "✕", "open": "?"}
_KINDS = ("better", "at_least", "no_difference")


def claims(found: Found) -> Markup:
    """What the study set out to test, and what became of it."""
    if not found.claims:
        return Markup("")
    several = len({claim.get("suite") for claim in found.claims}) > 1
    rows = [_claim(claim, several) for claim in found.claims]
    heads = [both(f"head_{head}") for head in ("claim", "outcome", "estimate", "p_holm")]
    made = table(both("claims_table"), heads, rows, name="claims", left=(1,))
    remarks = [tag("li", told(claim["sentence"])) for claim in found.claims if _has_remark(claim.get("sentence"))]
    return joined(made, tag("ul", remarks, class_="notes") if remarks else None)


def _has_remark(line: Any) -> bool:
    """Whether a claim's sentence says more than the table: how large a difference is not ruled out, or is seen."""
    values = line.get("values") if isinstance(line, dict) else None
    return isinstance(values, dict) and bool(values.get("besides"))


def _claim(claim: dict[str, Any], several: bool) -> list[Any]:
    text = str(claim.get("claim") or json.dumps(claim))
    suite = f" ({claim.get('suite')})" if several else ""
    word = (
        {True: "holds", False: "fails"}.get(claim["holds"], "open") if isinstance(claim.get("holds"), bool) else "open"
    )
    said = tag("span", _SIGNS[word], aria_hidden="true")
    cell = tag("td", said, " ", both(f"claim_{word}"), class_=f"left claim-{word}")
    reach = tag("span", ends(claim.get("delta_low"), claim.get("delta_high"), sign=True), class_="ends")
    return [
        joined(_worded(claim, text), suite),
        cell,
        joined(signed(claim.get("delta")), " ", reach),
        p_value(claim.get("p_holm")),
    ]


def _worded(claim: dict[str, Any], text: str) -> Markup:
    """The claim in both languages where it is of a kind that is known here, else as the study says it."""
    kind, first, second = (claim.get(key) for key in ("kind", "first", "second"))
    if kind in _KINDS and first and second:
        return told({"key": f"claim_{kind}", "values": {"first": str(first), "second": str(second)}})
    return foreign(text)


def differences(found: Found) -> Markup:
    """The keys in which the variants' recipes differ, and what that leaves uncontrolled."""
    said = [tag("p", told(line)) for line in found.controlled]
    variants = list(dict.fromkeys(variant for values in found.differing.values() for variant in values))
    keys, owned = [], []
    for key, values in found.differing.items():
        given = [value for value in values.values() if value is not None]
        if given and len(given) < len(values) and all(v == given[0] for v in given) and key != "method.name":
            owned.append(joined(tag("code", key), " = ", tag("code", _short(given[0]))))
        else:
            keys.append(key)
    if not keys and not said:
        return Markup("")

    def cell(variant: str, key: str) -> Markup | str:
        value = found.differing[key].get(variant)
        return DASH if value is None else tag("code", _short(value))

    made = (
        grid(both("differing"), ("head_variant", variants), ("head_key", keys), cell, name="differing")
        if keys
        else None
    )
    listed = [[", " if n else "", one] for n, one in enumerate(owned)]
    same = tag("p", both("owned"), " ", listed, both("stop"), class_="note")
    return joined(said, made, same if owned else None)


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
    notes = [tag("li", told(line)) for line in found.notes if line not in found.controlled]
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
