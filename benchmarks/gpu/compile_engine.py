"""`python -m gpu.compile_engine BUNDLE`: compiles a bundle for TensorRT here, and prints what was made as JSON."""

import json
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    bundle = Path(sys.argv[1])
    command = [sys.executable, "-m", "rmexport", "compile", str(bundle), "--target", "tensorrt", "--overwrite"]
    begin = time.perf_counter()
    done = subprocess.run(command, check=False, stdout=sys.stderr)
    if done.returncode:
        sys.exit(f"rmexport compile exited with {done.returncode}")
    engines = sorted(path.parent.name for path in bundle.glob("engines/tensorrt/*/engine.json"))
    print(json.dumps({"seconds": time.perf_counter() - begin, "engines": engines}))


if __name__ == "__main__":
    main()
