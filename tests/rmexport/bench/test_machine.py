"""The class of a processor is read from what Linux says of it."""

from pathlib import Path

import pytest

from rmexport.bench.machine import describe_machine, processor_class
from rmexport.verify import processor

COMMON = "fpu sse4_1 avx fma f16c"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("avx2", "AVX2"),
        ("avx2 avx512f avx512_vnni", "AVX-512"),
        ("avx2 avx512f avx512_bf16", "AVX-512 BF16"),
        ("avx2 avx512f avx512_bf16 amx_bf16 amx_tile amx_int8", "AMX"),
        ("", "not recorded"),
    ],
)
def test_the_class_is_that_of_the_fastest_instructions(
    flags: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: a processor\nflags\t\t: {COMMON} {flags}\n\n"
    path = tmp_path / "cpuinfo"
    path.write_text(text + text.replace("processor\t: 0", "processor\t: 1"))
    monkeypatch.setattr(processor, "CPUINFO", path)
    machine = describe_machine()
    assert machine["processor_class"] == expected and machine["cpu"] == "a processor"
    assert set(flags.split()) - set(machine["flags"]) <= {"amx_tile"}


def test_another_maker_s_processor_has_no_class() -> None:
    assert processor_class({"asimd", "sve", "bf16"}) == "not recorded"
