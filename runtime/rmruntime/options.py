"""The options of scoring and of the engine, as frozen dataclasses; and sizes in bytes as people write them (5GB)."""

import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import wraps
from operator import attrgetter
from typing import Any, Literal, TypeVar, get_args

from rmruntime.errors import OptionError
from rmruntime.option_checks import BYTES, THREADS, TOKENS, check_fields, check_value

Aggregate = Literal["mean", "min", "last", "prod"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
PRECISIONS = get_args(Precision)


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """Options of `RewardModel.score` and `rmexport score`.

    `truncate` is the side on which an over-long sequence loses tokens; None makes it an error. `max_length` lowers the
    bundle's own limit, in tokens. `aggregate` is how the scores of steps become one. `strict_content` refuses messages
    that spell a special token. `max_batch_tokens` bounds the tokens computed in one pass, after prefix sharing; None is
    the engine's own choice.

    >>> ScoreOptions(max_length=0)
    Traceback (most recent call last):
    rmruntime.errors.OptionError: max_length is 0, expected at least 1 or None
    """

    truncate: Literal["left", "right"] | None = None
    max_length: int | None = None
    aggregate: Aggregate = "mean"
    strict_content: bool = False
    max_batch_tokens: int | None = None

    def __post_init__(self) -> None:
        """Raises OptionError for a value that is none of the choices, of another type, or out of range."""
        check_fields(self, {"max_length": TOKENS, "max_batch_tokens": TOKENS})


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Options of `RewardModel.load`: the engine that computes, and its settings.

    - `device`: auto, cpu, cuda, cuda:1, or a backend's name. Several, separated by commas, share the bundle's stages.
    - `stage_memory`: run the bundle's stages in turn on one device, with at most this many bytes of weights loaded at a
      time; "auto" is half of the available memory.
    - `precision`: the arithmetic, which the engine must have; "auto" is the engine's fastest that has no fewer mantissa
      bits than the bundle's dtype.
    - `dialect`: the graph to run, where an engine reads several; None is the engine's best.
    - `check`: "full" hashes the weights and compiled engines before they are used.
    - `threads`: 0 lets the engine decide.
    - `memory_limit`: bytes that the weights should stay under; on GPUs, the weights and the passes.
    - `prefix_cache`: keep keys and values of earlier tokens, at most this many bytes, so that what begins with the same
      tokens in later calls computes only the rest; scores are the same. "auto" is a quarter of the memory that is left
      once the model is loaded, at most 4 GB.

    >>> EngineOptions(device="cuda:0, cuda:1").devices
    ('cuda:0', 'cuda:1')
    """

    device: str = "auto"
    precision: Precision = "auto"
    dialect: str | None = None
    check: Literal["fast", "full"] = "fast"
    threads: int = 0
    memory_limit: int | None = None
    stage_memory: int | Literal["auto"] | None = None
    prefix_cache: int | Literal["auto", "off"] = "off"

    def __post_init__(self) -> None:
        """Raises OptionError for a value that is none of the choices, of another type, or out of range."""
        limits = {"threads": THREADS, "memory_limit": BYTES._replace(least=0)}
        limits |= dict.fromkeys(("stage_memory", "prefix_cache"), BYTES)
        check_fields(self, limits)

    @property
    def devices(self) -> tuple[str, ...]:
        """The names in `device`, which commas separate."""
        return tuple(part.strip() for part in self.device.split(","))

    @property
    def device_name(self) -> str:
        """The device without its number."""
        return self.device.partition(":")[0]

    @property
    def device_index(self) -> int:
        """The number after the colon in `device`, 0 without one."""
        number = self.device.partition(":")[2]
        return int(number) if is_index(number) else 0

    @property
    def stages_in_turn(self) -> bool:
        """Whether one device runs the stages in turn."""
        return self.stage_memory is not None

    def unstaged(self) -> "EngineOptions":
        """These options without `stage_memory`, for a graph that is loaded whole."""
        return replace(self, stage_memory=None)


Holder = TypeVar("Holder")


def takes_engine_fields(error: type[Exception] = OptionError) -> Callable[[type[Holder]], type[Holder]]:
    """A class decorator for options with a field `engine`: the engine's fields may be given and read directly.

    A wrong value of such a field raises `error`.

    >>> @takes_engine_fields()
    ... @dataclass(frozen=True, kw_only=True)
    ... class FileOptions:
    ...     input: str
    ...     engine: EngineOptions
    >>> options = FileOptions(input="a.jsonl", threads=4)
    >>> options.engine.threads, options.threads
    (4, 4)
    """
    names = [field.name for field in fields(EngineOptions)]

    def wrap(kind: type[Holder]) -> type[Holder]:
        plain: Callable[..., None] = kind.__init__

        @wraps(plain)
        def init(self: Holder, **given: Any) -> None:
            own = {name: given.pop(name) for name in names if name in given}
            engine = given.pop("engine", EngineOptions())
            check_value("engine", engine, EngineOptions, error=error)
            try:
                plain(self, engine=replace(engine, **own) if own else engine, **given)
            except OptionError as wrong:
                raise error(str(wrong)) from wrong

        kind.__init__ = init  # type: ignore[assignment] # the dataclass's own knows `engine` alone
        for name in names:
            setattr(kind, name, property(attrgetter(f"engine.{name}")))
        return kind

    return wrap


def is_index(text: str) -> bool:
    """Whether `text` can be the number of a device: decimal, of at most five digits.

    >>> is_index("1"), is_index("one")
    (True, False)
    """
    return text.isdecimal() and len(text) < 6


_UNITS = {"": 1, "B": 1} | {
    name: base**power
    for base, end in ((1000, "B"), (1024, "iB"))
    for power, letter in enumerate("KMGT", 1)
    for name in (f"{letter}{end}".upper(),)
}


def parse_bytes(text: str) -> int:
    """The number of bytes that a text such as "500MB" means. Raises ValueError for anything but a positive size.

    >>> parse_bytes("2.5GB"), parse_bytes("2GiB")
    (2500000000, 2147483648)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text, re.IGNORECASE)
    size = int(float(found[1]) * _UNITS.get(found[2].upper(), 0)) if found else 0
    if size <= 0:
        raise ValueError(f"{text!r} is no size; expected one like 5GB (10^9 bytes), 500MB or 2GiB (2^30 bytes)")
    return size


def format_bytes(size: int) -> str:
    """A size in bytes for messages, in a unit that suits it.

    >>> format_bytes(12_300_000_000), format_bytes(400)
    ('12.3 GB', '400 bytes')
    """
    for unit, one in (("GB", 10**9), ("MB", 10**6)):
        if size >= one // 10:
            return f"{size / one:.1f} {unit}"
    return f"{size} bytes"
