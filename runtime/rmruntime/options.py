"""How to score and on which engine, as frozen values passed whole; and sizes as people write them: 5GB, 2GiB."""

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

    `truncate` says which side loses tokens of an over-long sequence; None makes it an error. `max_length` lowers the
    bundle's own limit, in tokens. `aggregate` makes one value of step scores. `strict_content` refuses messages that
    spell a special token. `max_batch_tokens` bounds the tokens computed in one pass, after prefix sharing; None is the
    engine's own choice.
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
    """Options of `RewardModel.load`: the engine that computes, and with what.

    `device` is auto, cpu, cuda, cuda:1, or a backend's name; several, with commas between, run one stage after another.
    `stage_memory`, bytes or "auto" (half of the memory there is), has one device run the stages in turn, holding no
    more weights than that. `precision` "auto" is the engine's best that has no fewer mantissa bits than the bundle's
    dtype; otherwise that arithmetic or an error. `dialect` names the graph to run, where an engine reads several; None:
    the engine's best. `check` "full" hashes the weights, and compiled engines. `threads` 0 lets the engine decide.
    `memory_limit`, bytes, is what the weights should stay under. `prefix_cache`, bytes or "auto" (a quarter of the
    memory that is left once the model is loaded, at most 4 GB), keeps that much of earlier tokens' keys and values, so
    that what begins with the same tokens in later calls computes the rest alone; scores are the same.
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
        """Each of the devices."""
        return tuple(part.strip() for part in self.device.split(","))

    @property
    def device_name(self) -> str:
        """The device without its number."""
        return self.device.partition(":")[0]

    @property
    def device_index(self) -> int:
        """The number behind the colon, 0 without one."""
        number = self.device.partition(":")[2]
        return int(number) if is_index(number) else 0

    @property
    def stages_in_turn(self) -> bool:
        """Whether one device runs the stages, in turn."""
        return self.stage_memory is not None

    def unstaged(self) -> "EngineOptions":
        """The same for a graph that is loaded whole."""
        return replace(self, stage_memory=None)


Holder = TypeVar("Holder")


def takes_engine_fields(error: type[Exception] = OptionError) -> Callable[[type[Holder]], type[Holder]]:
    """For options that hold an `engine`: its fields may be given, and read, as if they were theirs.

    `FileOptions(input="a", threads=4)` is `FileOptions(input="a", engine=EngineOptions(threads=4))`. A wrong value
    given so raises `error`.
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
    """Whether `text` is the number of a device: decimal, and none that no machine has."""
    return text.isdecimal() and len(text) < 6


_UNITS = {"": 1, "B": 1} | {
    name: base**power
    for base, end in ((1000, "B"), (1024, "iB"))
    for power, letter in enumerate("KMGT", 1)
    for name in (f"{letter}{end}".upper(),)
}


def parse_bytes(text: str) -> int:
    """The number of bytes. Raises ValueError for anything that is no positive size."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text, re.IGNORECASE)
    size = int(float(found[1]) * _UNITS.get(found[2].upper(), 0)) if found else 0
    if size <= 0:
        raise ValueError(f"{text!r} is no size; expected one like 5GB (10^9 bytes), 500MB or 2GiB (2^30 bytes)")
    return size


def shown_bytes(size: int) -> str:
    """A size for messages, in the unit that shows it: 12.3 GB, 2.1 MB, 400 bytes."""
    for unit, one in (("GB", 10**9), ("MB", 10**6)):
        if size >= one // 10:
            return f"{size / one:.1f} {unit}"
    return f"{size} bytes"
