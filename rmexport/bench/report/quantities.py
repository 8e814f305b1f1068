"""Numbers as people read them: three figures, thousands separated, with their unit."""

import math

MISSING = "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"


def figure(value: object, unit: str = "") -> str:
    """`value` to three significant figures; whole numbers in full. `unit` is appended."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return MISSING if value is None else str(value)
    if not math.isfinite(value):
        return str(value)
    if isinstance(value, int) or abs(value) >= 999.5:
        shown = f"{value:,.0f}"
    elif value == 0:
        shown = "0"
    elif abs(value) < 1e-4:
        shown = f"{value:.2e}"
    else:
        shown = f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
    return f"{shown} {unit}" if unit else shown


def short(value: float | None, scale: float = 1.0, unit: str = "") -> str:
    """`value / scale`, such as bytes as GB."""
    return MISSING if value is None else figure(float(value) / scale, unit)


def bytes_text(value: float | None) -> str:
    """Bytes as GB or MB (powers of ten)."""
    if value is None:
        return MISSING
    return short(value, 1e9, "GB") if value >= 1e9 else short(value, 1e6, "MB")


def count_text(value: float | None) -> str:
    """Parameters and the like: 426M, 8.03B."""
    if value is None:
        return MISSING
    for scale, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= scale:
            return f"{figure(value / scale)}{suffix}"
    return figure(value)


def ratio_text(value: float | None) -> str:
    """A ratio as 2.31x."""
    if value is None:
        return MISSING
    return f"{value:.2f}{TIMES}" if value < 100 else f"{value:,.0f}{TIMES}"


def percent_text(value: float | None) -> str:
    """A share of 1 as percent."""
    return MISSING if value is None else f"{100 * value:.1f} %"


def middle_elided(value: str, length: int) -> str:
    """`value` in at most `length` characters; what is cut is its middle, as the ends tell paths apart."""
    if len(value) <= length:
        return value
    head = (length - 1) // 2
    return f"{value[:head]}…{value[len(value) - (length - 1 - head) :]}"
