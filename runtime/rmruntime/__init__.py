"""Scores conversations with exported reward models; no PyTorch in the process."""

from rmruntime.errors import (
    BackendError,
    BundleError,
    ClusterError,
    DeadlineExceeded,
    DeviceLimit,
    DeviceMemoryError,
    EngineNotInstalled,
    EngineUnusable,
    InputError,
    InputTooLong,
    NonFiniteScore,
    OptionError,
    OutputError,
    QueueFull,
    RecordError,
    RewardModelError,
)
from rmruntime.modules import lazy_names
from rmruntime.version import __version__

TYPE_CHECKING = False  # typing's own takes time to import
if TYPE_CHECKING:
    from rmruntime.batching.request_queue import ScoreFuture
    from rmruntime.batching.runner import Statistics
    from rmruntime.options import ScoreOptions
    from rmruntime.reward_model import RewardModel, Run
    from rmruntime.scores import RankedDocument, Score
    from rmruntime.sessions.session import Session
    from rmruntime.sessions.warm_prefix import WarmPrefix

__all__ = [
    "BackendError",
    "BundleError",
    "ClusterError",
    "DeadlineExceeded",
    "DeviceLimit",
    "DeviceMemoryError",
    "EngineNotInstalled",
    "EngineUnusable",
    "InputError",
    "InputTooLong",
    "NonFiniteScore",
    "OptionError",
    "OutputError",
    "QueueFull",
    "RankedDocument",
    "RecordError",
    "RewardModel",
    "RewardModelError",
    "Run",
    "Score",
    "ScoreFuture",
    "ScoreOptions",
    "Session",
    "Statistics",
    "WarmPrefix",
    "__version__",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_names(
        __name__,
        {
            "RankedDocument": "scores",
            "RewardModel": "reward_model",
            "Run": "reward_model",
            "Score": "scores",
            "ScoreFuture": "batching.request_queue",
            "ScoreOptions": "options",
            "Session": "sessions.session",
            "Statistics": "batching.runner",
            "WarmPrefix": "sessions.warm_prefix",
        },
    )
