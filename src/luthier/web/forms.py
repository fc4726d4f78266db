# SPDX-License-Identifier: Apache-2.0
"""Numbers as the page writes them: the same digits in both languages, and a dash for what is unknown."""

from __future__ import annotations

from typing import Any

DASH = "–"
MINUS = "−"
_SIZES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))


def known(value: Any) -> bool:
    """Whether it is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def number(value: Any, digits: int = 3) -> str:
    """With so many digits after the point, and a true minus.

    Example:
        >>> number(-0.12345)
        '−0.123'
    """
    return f"{value:.{digits}f}".replace("-", MINUS) if known(value) else DASH


def signed(value: Any, digits: int = 3) -> str:
    """With its sign.

    Example:
        >>> signed(0.1), signed(-0.1), signed(None)
        ('+0.100', '−0.100', '–')
    """
    return f"{value:+.{digits}f}".replace("-", MINUS) if known(value) else DASH


def count(value: Any) -> str:
    """A whole number with its thousands apart.

    Example:
        >>> count(4456448.0)
        '4,456,448'
    """
    return f"{value:,.0f}" if known(value) else DASH


def seconds(value: Any) -> str:
    """A time, in the unit that people use for it.

    Example:
        >>> [seconds(v) for v in (3.21, 75, 4000, 200000)]
        ['3.2 s', '1:15 min', '1:07 h', '2.3 d']
    """
    if not known(value):
        return DASH
    if value < 60:
        return f"{value:.1f} s"
    minutes = round(value / 60)
    if value < 3600:
        return f"{value // 60:.0f}:{value % 60 // 1:02.0f} min"
    return f"{minutes // 60}:{minutes % 60:02d} h" if value < 86400 else f"{value / 86400:.1f} d"


def size(value: Any) -> str:
    """Bytes.

    Example:
        >>> size(10379264)
        '9.9 MiB'
    """
    if not known(value):
        return DASH
    return f"{value / (1 << 20):,.1f} MiB" if value < 10 << 30 else f"{value / (1 << 30):,.1f} GiB"


def operations(value: Any) -> str:
    """Floating-point operations.

    Example:
        >>> operations(3.2e13)
        '32.0 TFLOP'
    """
    if not known(value):
        return DASH
    scale, letter = next(((s, letter) for s, letter in _SIZES if value >= s), (1.0, ""))
    return f"{value / scale:.3g} {letter}FLOP" if value / scale >= 100 else f"{value / scale:.1f} {letter}FLOP"


def ends(low: Any, high: Any, digits: int = 3, *, sign: bool = False) -> str:
    r"""An interval, which no line break parts.

    Example:
        >>> ends(-0.1, 0.25, sign=True).replace("\N{NO-BREAK SPACE}", " ")
        '[−0.100, +0.250]'
    """
    if not (known(low) and known(high)):
        return ""
    form = signed if sign else number
    return f"[{form(low, digits)},\N{NO-BREAK SPACE}{form(high, digits)}]"


def p_value(value: Any) -> str:
    """A p-value; very small ones are not known to more digits.

    Example:
        >>> p_value(0.0301), p_value(0.00002)
        ('0.030', '< 0.001')
    """
    if not known(value):
        return DASH
    return "< 0.001" if value < 0.001 else number(value)


def interval(row: dict[str, Any], name: str) -> tuple[float, float] | None:
    """The 95 % interval of a row's number: as it was given, else 1.96 standard errors to both sides."""
    value, low, high, stderr = (row.get(f"{name}{end}") for end in ("", "_low", "_high", "_stderr"))
    if known(low) and known(high):
        return float(low), float(high)  # type: ignore[arg-type]
    if known(value) and known(stderr):
        return value - 1.96 * stderr, value + 1.96 * stderr  # type: ignore[operator]
    return None
