"""The contestants: the bundle, and the peers that the command line names. Each runs in a process of its own."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rmexport.bench.agreement import Values, agreement, worse
from rmexport.bench.gemm_peak import torch_device
from rmexport.bench.options import BenchOptions
from rmexport.bench.peers import file_of, peers
from rmexport.bench.worker.loop import load_module
from rmexport.bench.worker.scorer import LoadOptions
from rmexport.bench.worker_process import WorkerProcess
from rmexport.bench.workload import Workload
from rmexport.errors import ContestantError, ContestantMissing, OptionError
from rmruntime.bundle import Bundle
from rmruntime.bundle.manifest import Manifest

OWN = "rmexport"
BUNDLE = "bundle"


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """A contestant as the command line names it, before it starts.

    `module` is the file of the peer's module, `folder` the bundle or checkpoint that it loads, `python` its
    interpreter; `heads` are the heads that it can score (empty: any), `environment` the variables that its
    process has beside ours.
    """

    name: str
    module: Path
    folder: str
    dtype: str
    python: str
    heads: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_bundle(self) -> bool:
        """Whether `folder` is a bundle; only bundles take names of backends as device, other peers take torch's."""
        return self.module == file_of(peers()[BUNDLE])


def entrants(bundle: Bundle, options: BenchOptions) -> list[Entrant]:
    """The bundle first, then the peers in their order. Raises OptionError for a peer that is unknown or incomplete."""
    own = Entrant(
        name=OWN, module=file_of(peers()[BUNDLE]), folder=str(bundle.folder), dtype="auto", python=sys.executable
    )
    found = [own, *(_entrant(peer, options) for peer in options.peers)]
    unused = set(options.peer_python) - {name for e in found for name in (e.name, e.name.partition(":")[0])}
    if unused:
        raise OptionError(
            f"--peer-python names {', '.join(sorted(unused))}, expected the name of a --peer; add it, or leave this out"
        )
    return found


def _entrant(peer: str, options: BenchOptions) -> Entrant:
    name, _, rest = peer.partition(":")
    if name == BUNDLE:
        Bundle.open(rest)  # raises its errors before anything is loaded
        python = _python_of(peer, name, None, options)
        return Entrant(name=peer, module=file_of(peers()[name]), folder=rest, dtype="auto", python=python)
    module: Any = load_module(Path(peer)) if peer.endswith(".py") and Path(peer).is_file() else peers().get(name)
    if module is None:
        raise OptionError(f"--peer {peer!r} is unknown, expected one of {', '.join(sorted(peers()))} or a .py file")
    dtype = (rest if module.NAME == name else "") or module.DTYPES[0]
    if dtype not in module.DTYPES:
        raise OptionError(f"--peer {peer}: found the dtype {dtype!r}, expected one of {', '.join(module.DTYPES)}")
    if options.checkpoint is None or not Path(options.checkpoint).is_dir():
        raise OptionError(
            f"--peer {peer} loads the Hugging Face checkpoint: --checkpoint is {options.checkpoint!r}, "
            "expected the folder that the bundle was made from"
        )
    label = module.NAME if peer.endswith(".py") else peer
    python = _python_of(peer, name, getattr(module, "INSTALLED_AS", module.NAME), options)
    variables = module.environment(python, options.threads) if hasattr(module, "environment") else {}
    return Entrant(
        name=label, module=file_of(module), folder=options.checkpoint, dtype=dtype, python=python, heads=module.HEADS,
        environment=variables,
    )  # fmt: skip


def _python_of(peer: str, name: str, installed_as: str | None, options: BenchOptions) -> str:
    """The Python that the user names, else that of the peer's environment where `scripts/peers` made one, else ours."""
    given = options.peer_python.get(peer) or options.peer_python.get(name)
    if given is not None and not Path(given).is_file():
        raise OptionError(f"--peer-python {name}={given}: found no such file, expected a Python interpreter")
    if given is None and installed_as is not None and options.peer_folder is not None:
        found = options.peer_folder.absolute() / installed_as / "bin" / "python"
        given = str(found) if found.is_file() else None
    return given or sys.executable


class Contestant:
    """A contestant's process, and its part of the report; a failure ends this contestant, and the others go on."""

    def __init__(self, entrant: Entrant) -> None:
        self.entrant, self.record = entrant, dict[str, Any]()
        self.scores: Values = ()
        self.worker: WorkerProcess | None = None
        self.record |= {"name": entrant.name, "settings": "", "status": "ok", "message": None}
        self.record |= {"python": "", "versions": {}, "precision": None, "prepare_s": None, "load_s": None}
        self.record |= {"first_score_s": None, "peak_bytes": None, "parity": None, "scenarios": []}

    @property
    def running(self) -> bool:
        return self.worker is not None

    def attempt(self, piece: Callable[["Contestant"], object]) -> None:
        """Call `piece` with this contestant; a failure is written into the report, and ends the process."""
        try:
            piece(self)
        except ContestantError as error:
            self.record["status"] = "not installed" if isinstance(error, ContestantMissing) else "failed"
            self.record["message"] = str(error)
            self.close()
        if self.worker is not None:
            self.record["peak_bytes"] = self.worker.memory.record()

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """The reply of the process to a command, as from WorkerProcess.ask."""
        if self.worker is None:
            raise ContestantError("its process has ended already")
        return self.worker.ask(do, **arguments)

    def close(self) -> None:
        """End the process."""
        worker, self.worker = self.worker, None
        if worker is not None:
            self.record["peak_bytes"] = worker.memory.record()
            worker.close()

    def judge(self, reference: Values, own_precision: str, workload: Workload, found: Values) -> None:
        """Compare the scores of one pass, `found`, with ours, `reference`; the worst pass is reported."""
        precisions = (own_precision, str(self.record["precision"]))
        parity = agreement(reference, found, precisions, workload.pairs)
        self.record["parity"] = worse(self.record["parity"], parity)


def start(contestant: Contestant, manifest: Manifest, options: BenchOptions, workload: Workload) -> None:
    """Start the contestant's process, load its model, and give it the workload.

    Raises ContestantError or ContestantMissing.
    """
    entrant, record = contestant.entrant, contestant.record
    label = score_label(entrant, manifest)
    contestant.worker = WorkerProcess(entrant.python, entrant.module, options.timeout_s, entrant.environment)
    hello = contestant.ask("hello")
    record["python"], record["versions"] = hello["python"], hello["versions"]
    if hello["missing"]:
        raise ContestantMissing(
            f"{', '.join(hello['missing'])} is not installed in {entrant.python}; install it there, or name another "
            "Python with --peer-python"
        )
    given = asdict(load_options(entrant, options, workload, label))
    folder = entrant.folder
    if hello["converts"]:
        prepared = contestant.ask("prepare", folder=folder, options=given)
        folder, record["prepare_s"] = prepared["folder"], prepared["seconds"]
        contestant.close()  # so that the conversion's memory and imports are not counted as the engine's
        contestant.worker = WorkerProcess(entrant.python, entrant.module, options.timeout_s, entrant.environment)
    loaded = contestant.ask("load", folder=folder, dtype=entrant.dtype, threads=options.threads, options=given)
    record["load_s"], record["precision"], record["settings"] = (
        loaded["seconds"], loaded["precision"], loaded["settings"],
    )  # fmt: skip
    requests = [{"sequences": request.sequences, "records": request.records} for request in workload.requests]
    contestant.ask("workload", requests=requests)
    first = contestant.ask("single", order=[0], limit_s=options.timeout_s)
    record["first_score_s"] = first["latency_ms"][0] / 1e3


def load_options(entrant: Entrant, options: BenchOptions, workload: Workload, label: int) -> LoadOptions:
    """The options for this contestant; `label` is the index of the classifier's label that is the score."""
    used = {token for ids in workload.sequences for token in ids}
    return LoadOptions(
        device=options.device if entrant.is_bundle else torch_device(options.device),
        precision=options.precision if entrant.name == OWN else "auto",
        batch=options.peer_batch,
        max_batch_tokens=options.max_batch_tokens,
        label=label,
        spare_id=next(i for i in range(len(used) + 1) if i not in used),
        cache=str(options.peer_cache) if options.peer_cache else None,
        longest=max(map(len, workload.sequences)),
    )


def score_label(entrant: Entrant, manifest: Manifest) -> int:
    """The index, among a classifier's labels, of the logit that is the score; 0 where the head has one output.

    Raises ContestantError when this contestant cannot score the bundle's head.
    """
    if entrant.heads and manifest.head not in entrant.heads:
        raise ContestantError(
            f"scores {', '.join(entrant.heads)} heads only, this bundle has a {manifest.head} head: leave this peer out"
        )
    labels = next((output.labels for output in manifest.outputs if output.labels is not None), None)
    chosen = manifest.options.get("score_label")
    if not entrant.heads or labels is None:
        return 0
    if chosen not in labels:
        raise ContestantError(
            "the classifier has several labels, and the bundle does not name the one that is the score; export it "
            "again with --score-label"
        )
    return labels.index(chosen)
