# SPDX-License-Identifier: Apache-2.0
"""Words on the page stand out from what they stand on, in light and dark."""

from __future__ import annotations

import re

import pytest

from luthier.web.markup import asset


# ---------------------------------------------------------------- contrast, WCAG 2.2, 1.4.3 and 1.4.11
def _luminance(colour: str) -> float:
    digits = colour.lstrip("#")
    digits = "".join(2 * d for d in digits) if len(digits) == 3 else digits
    parts = [int(digits[n : n + 2], 16) / 255 for n in (0, 2, 4)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _contrast(one: str, two: str) -> float:
    light, dark = sorted((_luminance(one), _luminance(two)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _mixed(top: str, share: float, page: str) -> str:
    pairs = [
        (int(a, 16), int(b, 16)) for a, b in zip(re.findall("..", _six(top)), re.findall("..", _six(page)), strict=True)
    ]
    return "#" + "".join(f"{round(share * a + (1 - share) * b):02x}" for a, b in pairs)


def _six(colour: str) -> str:
    digits = colour.lstrip("#")
    return "".join(2 * d for d in digits) if len(digits) == 3 else digits


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_contrast(theme):
    colours = {
        name: pair.split(",")[theme] for name, pair in re.findall(r"--(\w+):light-dark\(([^)]*)\)", asset("page.css"))
    }
    grounds = {"page": colours["page"], "panel": colours["panel"]}
    grounds |= {"heat": _mixed(colours["g0"], 0.42, colours["page"])}
    for ground in grounds.values():
        assert _contrast(colours["ink"], ground) >= 4.5
    for name in ("soft", "link", "up", "down", "g0", "g1", "g2", "g3", "g4", "g5"):
        for ground in ("page", "panel"):
            assert _contrast(colours[name], grounds[ground]) >= 4.5, (name, ground)
    for name, share in (("up", 0.14), ("down", 0.18)):  # the cells of the table on what training changed
        ground = _mixed(colours[name], share, colours["page"])
        assert _contrast(colours[name], ground) >= 4.5, name
        assert _contrast(colours["soft"], ground) >= 4.5, name
