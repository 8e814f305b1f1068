"""What every test is kept from: the user's own cache folder."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

# pytest-xdist's workers inherit the first process's environment, and share its folder. matplotlib keeps its own place,
# where its list of fonts is: making that anew takes seconds.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("MPLCONFIGDIR", str(_cache / "matplotlib"))
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="rmexport-tests-")
    atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
