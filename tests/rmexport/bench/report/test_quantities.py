"""How numbers are written."""

import pytest

from rmexport.bench.report.quantities import bytes_text, count_text, figure, middle_elided, percent_text, ratio_text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"), (0, "0"), (0.0, "0"), (7, "7"), (1234567, "1,234,567"), (1234.5, "1,234"), (999.9, "1,000"),
        (123.4, "123"), (12.34, "12.3"), (1.0, "1.00"), (0.01234, "0.0123"), (0.00001234, "1.23e-05"),
        (-12.34, "-12.3"), (float("nan"), "nan"), (float("inf"), "inf"), ("text", "text"), (True, "True"),
    ],
)  # fmt: skip
def test_three_figures(value: object, shown: str) -> None:
    assert figure(value) == shown


def test_units() -> None:
    assert figure(1.5, "ms") == "1.50 ms"
    assert (bytes_text(25e9), bytes_text(3e8), bytes_text(None)) == ("25.0 GB", "300 MB", "–")
    assert (count_text(426e6), count_text(8.03e9), count_text(12.0)) == ("426M", "8.03B", "12.0")
    assert (ratio_text(2.314), ratio_text(1234.0), percent_text(0.0123)) == ("2.31×", "1,234×", "1.2 %")


@pytest.mark.parametrize("length", [9, 10, 11])
def test_elision_keeps_both_ends(length: int) -> None:
    short = middle_elided("bundle:/a/long/way/down/int8", length)
    assert len(short) == length
    assert short.startswith("bun") and short.endswith("int8"[-3:]) and "…" in short
    assert middle_elided("vllm", length) == "vllm"
