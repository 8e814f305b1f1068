"""A package `vllm` that is none: LLM in this process, and the command line's server, both of which add up token ids."""

import types
from pathlib import Path
from typing import Any

SERVER = """
import http.server, json, sys

def option(name):
    return sys.argv[sys.argv.index(name) + 1]

seen = []

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def reply(self, status, body):
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self):
        self.reply(200 if self.path == "/health" else 404, {})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body["use_activation"] or [0] in body["input"]:
            return self.reply(400, {"error": {"message": "refused"}})
        self.reply(200, {"data": [{"index": i, "probs": [-1, sum(ids)]} for i, ids in enumerate(body["input"])]})

    def log_message(self, *words):
        pass

if "--broken" in open(option("--model") + "/config.json").read():
    print("no such engine")
    sys.exit(7)
assert option("--runner") == "pooling" and "--enable-prefix-caching" in sys.argv
http.server.ThreadingHTTPServer((option("--host"), int(option("--port"))), Handler).serve_forever()
"""


def fake_server_package(folder: Path) -> Path:
    """A folder for PYTHONPATH, in which `python -m vllm.entrypoints.openai.api_server` is a server."""
    package = folder / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    for one in (folder / "vllm", package.parent, package):
        (one / "__init__.py").touch()
    (package / "api_server.py").write_text(SERVER)
    return folder


class FakeLLM:
    """Notes how it was made; counts as cached the tokens of a prefix that came before since the last reset."""

    made: dict[str, Any]
    busy = False

    def __init__(self, **arguments: Any) -> None:
        FakeLLM.made = arguments
        self._cached: set[tuple[int, ...]] = set()

    def classify(self, prompts: list[dict[str, list[int]]], *, pooling_params: Any, use_tqdm: bool) -> list[Any]:
        assert not pooling_params.use_activation and not use_tqdm
        return [self._output(prompt["prompt_token_ids"]) for prompt in prompts]

    def _output(self, ids: list[int]) -> Any:
        prefixes = [tuple(ids[:n]) for n in range(1, len(ids) + 1)]
        cached = sum(prefix in self._cached for prefix in prefixes)
        self._cached |= set(prefixes)
        outputs = types.SimpleNamespace(probs=[-1.0, float(sum(ids))])
        return types.SimpleNamespace(outputs=outputs, num_cached_tokens=cached)

    def reset_prefix_cache(self) -> bool:
        self._cached.clear()
        return not FakeLLM.busy


def fake_vllm() -> types.ModuleType:
    """The module, for sys.modules."""
    module: Any = types.ModuleType("vllm")
    module.LLM, module.PoolingParams = FakeLLM, types.SimpleNamespace
    return module  # type: ignore[no-any-return] # of the type that it was made as
