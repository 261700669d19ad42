"""How numbers are written on the page."""

from __future__ import annotations

import math
import re


def number(value: float | None) -> str:
    """Three decimals with a true minus sign; a dash where there is no number."""
    return "–" if value is None or math.isnan(value) else f"{value:.3f}".replace("-", "−")


def span(low: float, high: float) -> str:
    """An interval without leading zeros, "[.121, .153]"; signs are true minus signs."""
    texts = (re.sub(r"^(-?)0\.", r"\1.", f"{value:.3f}") for value in (low, high))
    return f"[{', '.join(texts)}]".replace("-", "−")


def percent(value: float) -> str:
    """ "63.6 %" of 0.636."""
    return f"{100 * value:.1f} %"


def duration(seconds: float) -> str:
    """ "83 s", "12 min", "3 h 05 min"."""
    minutes = round(seconds / 60)
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def p_text(p: float | None) -> str:
    """ "< 0.001" or three decimals."""
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def count_text(images: int | dict[str, int] | None) -> str:
    """ "10,000", or "40 train, 10 test" of counts by name."""
    parts = images if isinstance(images, dict) else {"": images or 0}
    return ", ".join(f"{count:,} {name}".strip() for name, count in parts.items())
