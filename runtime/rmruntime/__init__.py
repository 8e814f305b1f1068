"""Scores conversations with exported reward models; no PyTorch in the process."""

from rmruntime.errors import (
    BackendError,
    BundleError,
    ClusterError,
    DeviceLimit,
    DeviceMemoryError,
    EngineNotInstalled,
    EngineUnusable,
    InputError,
    InputTooLong,
    NonFiniteScore,
    OptionError,
    OutputError,
    RecordError,
    RewardModelError,
)
from rmruntime.modules import lazy_names
from rmruntime.version import __version__

TYPE_CHECKING = False  # typing's own takes time to import
if TYPE_CHECKING:
    from rmruntime.batching.runner import Statistics
    from rmruntime.options import ScoreOptions
    from rmruntime.reward_model import RewardModel, Run
    from rmruntime.scores import Score

__all__ = [
    "BackendError",
    "BundleError",
    "ClusterError",
    "DeviceLimit",
    "DeviceMemoryError",
    "EngineNotInstalled",
    "EngineUnusable",
    "InputError",
    "InputTooLong",
    "NonFiniteScore",
    "OptionError",
    "OutputError",
    "RecordError",
    "RewardModel",
    "RewardModelError",
    "Run",
    "Score",
    "ScoreOptions",
    "Statistics",
    "__version__",
]

if not TYPE_CHECKING:
    __getattr__ = lazy_names(
        __name__,
        {
            "RewardModel": "reward_model",
            "Run": "reward_model",
            "Score": "scores",
            "ScoreOptions": "options",
            "Statistics": "batching.runner",
        },
    )
