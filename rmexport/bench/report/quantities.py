"""Formats numbers for people: three significant figures, thousands separated, with their unit."""

import math

MISSING = "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"


def figure(value: object, unit: str = "") -> str:
    """`value` to three significant figures, whole numbers in full; `unit` is appended.

    >>> figure(0.123456), figure(4096), figure(12.345, "ms")
    ('0.123', '4,096', '12.3 ms')
    """
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
    """`value / scale` to three significant figures; a dash for None.

    >>> short(2_500_000_000, 1e9, "GB")
    '2.50 GB'
    """
    return MISSING if value is None else figure(float(value) / scale, unit)


def bytes_text(value: float | None) -> str:
    """A number of bytes as GB or MB (powers of ten); a dash for None.

    >>> bytes_text(2_500_000_000), bytes_text(12_000_000)
    ('2.50 GB', '12.0 MB')
    """
    if value is None:
        return MISSING
    return short(value, 1e9, "GB") if value >= 1e9 else short(value, 1e6, "MB")


def count_text(value: float | None) -> str:
    """A large count, such as one of parameters, with K, M or B; a dash for None.

    >>> count_text(8.03e9), count_text(426e6)
    ('8.03B', '426M')
    """
    if value is None:
        return MISSING
    for scale, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= scale:
            return f"{figure(value / scale)}{suffix}"
    return figure(value)


def ratio_text(value: float | None) -> str:
    """A ratio with two decimals and a multiplication sign; a dash for None.

    >>> ratio_text(2.309)
    '2.31×'
    """
    if value is None:
        return MISSING
    return f"{value:.2f}{TIMES}" if value < 100 else f"{value:,.0f}{TIMES}"


def percent_text(value: float | None) -> str:
    """A share, 0 to 1, as percent; a dash for None.

    >>> percent_text(0.256)
    '25.6 %'
    """
    return MISSING if value is None else f"{100 * value:.1f} %"


def middle_elided(value: str, length: int) -> str:
    """`value` in at most `length` characters, cut in the middle, because the ends tell paths apart.

    >>> middle_elided("/models/reward/bundle", 11)
    '/mode…undle'
    """
    if len(value) <= length:
        return value
    head = (length - 1) // 2
    return f"{value[:head]}…{value[len(value) - (length - 1 - head) :]}"
