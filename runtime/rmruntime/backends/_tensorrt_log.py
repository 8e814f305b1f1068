"""Collects TensorRT's messages, so that an error can state the reason."""

from typing import Any

OUT_OF_MEMORY = ("out of memory", "OutOfMemory", "cudaErrorMemoryAllocation", "cudaError 2:")


class Messages:
    """TensorRT's messages since the last `clear`; TensorRT adds them from any thread.

    >>> messages = Messages()
    >>> messages.add("cudaMalloc: out of memory")
    >>> str(messages), messages.out_of_memory
    ('cudaMalloc: out of memory', True)
    """

    def __init__(self) -> None:
        self._texts: list[str] = []
        self.out_of_memory = False

    def add(self, text: str, *, allocation: bool = False) -> None:
        self._texts.append(text.strip())
        self.out_of_memory |= allocation or any(mark in text for mark in OUT_OF_MEMORY)

    def clear(self) -> None:
        self._texts.clear()
        self.out_of_memory = False

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, i: int) -> str:
        return self._texts[i]

    def __str__(self) -> str:
        return "; ".join(dict.fromkeys(self._texts)) or "it gave no reason"


def error_recorder(trt: Any, messages: Messages) -> Any:
    """An IErrorRecorder that keeps errors in `messages`."""

    class Recorder(trt.IErrorRecorder):  # type: ignore[misc] # engines are untyped
        def __init__(self) -> None:
            trt.IErrorRecorder.__init__(self)

        def report_error(self, code: Any, text: str) -> bool:
            messages.add(text, allocation=code == trt.ErrorCodeTRT.FAILED_ALLOCATION)
            return False  # do not abort: the call that failed returns an error itself

        def num_errors(self) -> int:
            return len(messages)

        get_num_errors = num_errors  # the packages call it by this name, and document the other

        def get_error_code(self, i: int) -> Any:
            return trt.ErrorCodeTRT.UNSPECIFIED_ERROR

        def get_error_desc(self, i: int) -> str:
            return messages[i]

        def has_overflowed(self) -> bool:
            return False

        def clear(self) -> None:
            messages.clear()

    return Recorder()


def logger(trt: Any, messages: Messages) -> Any:
    """An ILogger that keeps errors in `messages`, for those that reach no recorder, and drops everything else."""

    class ErrorLogger(trt.ILogger):  # type: ignore[misc] # engines are untyped
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                messages.add(text)

    return ErrorLogger()
