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
    OptionError,
    RecordError,
    RewardModelError,
)
from rmruntime.options import ScoreOptions
from rmruntime.passes import Statistics
from rmruntime.reward_model import RewardModel, Run
from rmruntime.scores import Score
from rmruntime.version import __version__

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
    "OptionError",
    "RecordError",
    "RewardModel",
    "RewardModelError",
    "Run",
    "Score",
    "ScoreOptions",
    "Statistics",
    "__version__",
]
