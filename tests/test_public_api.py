"""What users import: sorted, complete, documented, and nothing more."""

import rmexport
import rmruntime


def test_all_is_sorted_and_importable() -> None:
    for package in (rmexport, rmruntime):
        assert list(package.__all__) == sorted(package.__all__)
        for name in package.__all__:
            assert getattr(package, name) is not None


def test_public_names() -> None:
    assert set(rmruntime.__all__) == {
        "BackendError", "BundleError", "ClusterError", "DeadlineExceeded", "DeviceLimit", "DeviceMemoryError",
        "EngineNotInstalled", "EngineUnusable", "InputError", "InputTooLong", "NonFiniteScore", "OptionError",
        "OutputError", "QueueFull", "RankedDocument", "RecordError", "RewardModel", "RewardModelError", "Run", "Score",
        "ScoreFuture", "ScoreOptions", "Session", "Statistics", "WarmPrefix", "__version__",
    }  # fmt: skip
    assert set(rmexport.__all__) == {
        "CheckpointError", "ExportError", "ExportOptions", "OptionError", "TargetExists", "UnsupportedModel",
        "VerificationError", "WriteError", "__version__", "export",
    }  # fmt: skip


def test_everything_public_is_documented() -> None:
    for package in (rmexport, rmruntime):
        for name in package.__all__:
            value = getattr(package, name)
            if isinstance(value, type) or callable(value):
                assert value.__doc__


def test_one_version() -> None:
    from importlib.metadata import version

    assert rmexport.__version__ == rmruntime.__version__ == version("rmexport") == version("rmruntime")
