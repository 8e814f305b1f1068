"""What `scripts/peers` makes is what peers of the benchmark run in."""

import subprocess
from pathlib import Path

from rmexport.bench.peers import peers

ROOT = Path(__file__).parent.parent.parent
FILES = ROOT / "benchmarks" / "peers"


def names() -> set[str]:
    return {path.stem for path in FILES.glob("*.txt") if not path.stem.endswith(".amd")}


def test_every_peer_but_bundles_has_an_environment() -> None:
    assert {getattr(module, "INSTALLED_AS", name) for name, module in peers().items()} - {"bundle"} == names()


def test_the_versions_are_named() -> None:
    for path in FILES.iterdir():
        lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
        assert lines and all("==" in line for line in lines), path


def test_an_unknown_name_is_refused() -> None:
    found = subprocess.run(
        [ROOT / "scripts" / "peers", "no-such-peer"], capture_output=True, text=True, check=False, timeout=60
    )
    assert found.returncode == 2 and all(name in found.stderr for name in names())
