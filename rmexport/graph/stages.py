"""Which layers of a decoder each stage has, and the bytes of weights that its graph reads."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from rmexport.errors import OptionError
from rmexport.options import ExportOptions
from rmexport.weights.weight_spec import WeightLocation
from rmruntime.bundle.manifest import WeightRange

JOINED = 1 << 20  # bytes between two weights that are read along rather than skipped


@dataclass(frozen=True, kw_only=True)
class LayerSpan:
    """The layers `first` to `end` - 1 that a graph computes; `end` None: all from `first` on."""

    first: int = 0
    end: int | None = None

    def of(self, layers: int) -> range:
        """The layers' numbers, in a backbone of `layers` layers."""
        return range(self.first, layers if self.end is None else self.end)


def stage_spans(options: ExportOptions, layers: int) -> tuple[LayerSpan, ...]:
    """The layers of each stage, all `layers` in order; empty where no stages are asked for. Raises OptionError.

    >>> stage_spans(ExportOptions(stages=2), 4)
    (LayerSpan(first=0, end=2), LayerSpan(first=2, end=None))
    """
    if options.stage_layers is not None:
        ranges = _named(options.stage_layers, layers)
    elif options.stages > 1:
        ranges = _equal(options.stages, layers)
    else:
        return ()
    return tuple(LayerSpan(first=first, end=None if last == layers - 1 else last + 1) for first, last in ranges)


def _equal(stages: int, layers: int) -> list[tuple[int, int]]:
    """Odd layers go to the last stages: the first has the embedding, and the last layer computes few tokens."""
    if stages > layers:
        raise OptionError(f"stages is {stages}, the backbone has {layers} layers: expected at most {layers}")
    ends = [layers * (stage + 1) // stages for stage in range(stages)]
    return [(begin, end - 1) for begin, end in zip([0, *ends], ends, strict=False)]


def _named(text: str, layers: int) -> list[tuple[int, int]]:
    parts = [re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip()) for part in text.split(",")]
    ranges = [(int(part[1]), int(part[2] or part[1])) for part in parts if part]
    begins = [0, *(last + 1 for _, last in ranges)]
    in_order = all(first == begin and last >= first for begin, (first, last) in zip(begins, ranges, strict=False))
    if None in parts or not in_order or begins[-1] != layers:
        half = max(1, layers // 2)
        raise OptionError(
            f"stage_layers is {text!r}, expected ranges that follow one another and make up layers 0 to {layers - 1}, "
            f"such as '0-{half - 1},{half}-{layers - 1}'"
        )
    return ranges


def weight_ranges(locations: Iterable[WeightLocation]) -> tuple[WeightRange, ...]:
    """Where weights lie, in file order; those less than JOINED bytes apart are one range.

    >>> first = WeightLocation("model.safetensors", offset=0, nbytes=64, dtype="fp32", shape=(16,))
    >>> second = WeightLocation("model.safetensors", offset=64, nbytes=64, dtype="fp32", shape=(16,))
    >>> weight_ranges([second, first])
    (WeightRange(file='model.safetensors', offset=0, nbytes=128),)
    """
    runs: list[WeightRange] = []
    for at in sorted(locations, key=lambda at: (at.file, at.offset)):
        begin, end = at.offset, at.offset + at.nbytes
        if runs and runs[-1].file == at.file and begin - (runs[-1].offset + runs[-1].nbytes) < JOINED:
            begin, end = runs[-1].offset, max(end, runs[-1].offset + runs[-1].nbytes)
            runs.pop()
        runs.append(WeightRange(file=at.file, offset=begin, nbytes=end - begin))
    return tuple(runs)
