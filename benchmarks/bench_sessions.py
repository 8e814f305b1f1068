"""Sessions, a beam, a system prompt and concurrent callers against the same scores computed anew each time.

A Llama process reward model of about 426M parameters with random weights. Each case is one way of asking beside others:
the same texts, scores compared bit for bit, new texts for every repeat, so that nothing is cached from the one before.
A ratio stands beside its bound: the ratio of what the tokens of the passes cost, each pass as long as one of that many
tokens of a single conversation takes, which includes reading the weights; and beside the ratio of the tokens.
"""

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from bench_scoring import SHAPE, write_checkpoint
from bench_submit import WORDS, all_at_once, closed_loop, in_threads
from machine import banner, describe

from rmruntime import InputError, RewardModel, Score, ScoreOptions, Session
from rmruntime.records import parse_record

TINY = SHAPE | {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
TINY |= {"num_key_value_heads": 2}
PROMPT, STEP, SYSTEM, REQUEST = 200, 60, 500, 100  # tokens
BEAM, BEAM_STEPS, REQUESTS = 4, 20, 64
LENGTHS = (8, 60, 120, 240, 480, 1000, 2000, 2600)  # of the passes whose seconds are measured
SHARE = 0.8  # of the bound that is wanted
CACHE = 3_000_000_000  # bytes

Values = list[tuple[float, ...]]


@dataclass(frozen=True)
class Way:
    """One way of asking: `run` returns the values, which all ways of a case share; `passes` are the tokens of each."""

    name: str
    run: Callable[[], Values]
    passes: Sequence[int]


@dataclass
class Case:
    """Ways to compare, the new one first, which should be so many times faster than each of the others (`targets`)."""

    name: str
    ways: Callable[[int], list[Way]]  # by a seed of the texts
    targets: dict[str, float]
    amx: dict[str, float] = field(default_factory=dict)  # where a pass of a step's tokens only reads weights
    times: int = 1  # as many repeats, where the difference that counts is small


class Workload:
    """The texts of all cases, of about as many tokens as they are to have."""

    def __init__(self, plain: RewardModel, cached: RewardModel) -> None:
        self.plain, self.cached = plain, cached

    def text(self, rng: random.Random, tokens: int) -> str:
        """Of so many tokens, or a few more."""
        words = rng.choices(WORDS, k=max(2, tokens // 4))
        while (found := self.count(" ".join(words))) < tokens:
            words += rng.choices(WORDS, k=max(1, (tokens - found) // 4))
        while len(words) > 2 and self.count(" ".join(words[:-1])) >= tokens:
            words.pop()
        return " ".join(words)

    def count(self, text: str) -> int:
        """Of a text alone: a step without its line end."""
        [found] = self.plain.encode([parse_record({"prompt": text, "steps": [""]})], ScoreOptions())
        assert not isinstance(found, InputError)
        return len(found[0].ids) - 2  # of a beginning and of the line end

    def appended(self, seed: int, count: int) -> list[Way]:
        """One solution whose steps come one by one."""
        rng = random.Random(f"{seed} {count}")
        prompt, steps = self.text(rng, PROMPT), [self.text(rng, STEP - 1) for _ in range(count)]

        def session() -> Values:
            with self.cached.session(prompt) as own:
                return [tuple(own.append(step)) for step in steps]

        def anew() -> Values:
            found = [self.plain.score_steps(prompt, steps[: n + 1]).steps or () for n in range(count)]
            return [values[-1:] for values in found]

        return [
            Way("session", session, [PROMPT + STEP] + [STEP] * (count - 1)),
            Way("anew", anew, [PROMPT + STEP * (n + 1) for n in range(count)]),
        ]

    def candidates(self, seed: int) -> list[Way]:
        """Each step is the best of BEAM candidates."""
        rng = random.Random(f"{seed} candidates")
        prompt = self.text(rng, PROMPT)
        texts = [[self.text(rng, STEP - 1) for _ in range(BEAM)] for _ in range(BEAM_STEPS)]
        known = PROMPT, BEAM * STEP

        def sessions() -> Values:
            found: Values = []
            best = self.cached.session(prompt)
            for own in texts:
                forks = best.fork(len(own))
                values = [_value(one) for one in self.cached.append_many(zip(forks, own, strict=True))]
                best = forks[int(np.argmax(values))]
                found.append(tuple(values))
            return found

        def searched(score: Callable[[list[list[str]]], list[float]]) -> Values:
            found: Values = []
            steps: list[str] = []
            for own in texts:
                values = score([[*steps, text] for text in own])
                steps.append(own[int(np.argmax(values))])
                found.append(tuple(values))
            return found

        def a_call_a_step(solutions: list[list[str]]) -> list[float]:
            return _last(self.plain.score([{"prompt": prompt, "steps": steps} for steps in solutions]))

        def a_call_a_candidate(solutions: list[list[str]]) -> list[float]:
            return _last([self.plain.score_steps(prompt, steps) for steps in solutions])

        shared = [known[0] + STEP * n + known[1] for n in range(BEAM_STEPS)]
        alone = [known[0] + STEP * (n + 1) for n in range(BEAM_STEPS) for _ in range(BEAM)]
        return [
            Way("append_many", sessions, [sum(known)] + [known[1]] * (BEAM_STEPS - 1)),
            Way("a call a step", lambda: searched(a_call_a_step), shared),
            Way("a call a candidate", lambda: searched(a_call_a_candidate), alone),
        ]

    def beams(self, seed: int) -> list[Way]:
        """BEAM solutions, each of which goes its own way."""
        rng = random.Random(f"{seed} beams")
        prompt = self.text(rng, PROMPT)
        texts = [[self.text(rng, STEP - 1) for _ in range(BEAM)] for _ in range(BEAM_STEPS)]

        def sessions() -> Values:
            own: list[Session] = self.cached.session(prompt).fork(BEAM)
            return [
                tuple(_value(one) for one in self.cached.append_many(zip(own, step, strict=True))) for step in texts
            ]

        def a_call_a_step() -> Values:
            solutions = [[[texts[m][b] for m in range(n + 1)] for b in range(BEAM)] for n in range(BEAM_STEPS)]
            records = [[{"prompt": prompt, "steps": steps} for steps in own] for own in solutions]
            return [tuple(_last(self.plain.score(own))) for own in records]

        return [
            Way("append_many", sessions, [PROMPT + BEAM * STEP] + [BEAM * STEP] * (BEAM_STEPS - 1)),
            Way("a call a step", a_call_a_step, [PROMPT + BEAM * STEP * (n + 1) for n in range(BEAM_STEPS)]),
        ]

    def behind_a_system_prompt(self, seed: int) -> list[Way]:
        """Requests one by one that begin with the same messages."""
        rng = random.Random(f"{seed} system")
        system = {"role": "system", "content": self.text(rng, SYSTEM)}
        records = [
            {"prompt": [system, {"role": "user", "content": self.text(rng, REQUEST - STEP)}], "steps": [text]}
            for text in (self.text(rng, STEP - 1) for _ in range(REQUESTS))
        ]

        def asked(model: RewardModel) -> Values:
            return [tuple(_last(model.score([record]))) for record in records]

        def warmed() -> Values:
            with self.cached.warm([system]):
                return asked(self.cached)

        return [
            Way("warm", warmed, [SYSTEM] + [REQUEST] * REQUESTS),
            Way("anew", lambda: asked(self.plain), [SYSTEM + REQUEST] * REQUESTS),
        ]

    def uncached(self, seed: int) -> list[Way]:
        """One conversation after another that begin with nothing that was seen, with the cache and without."""
        rng = random.Random(f"{seed} uncached")
        records = [
            {"prompt": f"{rng.random()} {self.text(rng, PROMPT)}", "steps": [self.text(rng, STEP) for _ in range(5)]}
            for _ in range(8)
        ]

        def asked(model: RewardModel) -> Values:
            return [tuple(_last(model.score([record]))) for record in records]

        passes = [PROMPT + 5 * STEP] * len(records)
        return [Way("cache", lambda: asked(self.cached), passes), Way("plain", lambda: asked(self.plain), passes)]

    def threads(self, seed: int, work: Callable[[RewardModel, Sequence[dict[str, Any]]], list[Any]]) -> list[Way]:
        """Callers of many threads beside one `score()`, both without the cache, which would share more."""
        rng = random.Random(f"{seed} threads")
        prompts = [self.text(rng, rng.randint(20, 60)) for _ in range(96)]
        records = [
            {"prompt": prompts[i - (i % 4 == 1)], "steps": [self.text(rng, rng.randint(10, 40))]}
            for i in range(len(prompts))
        ]

        def in_all_threads() -> Values:
            return [(value,) for value in _last(in_threads(32, records, lambda own: work(self.plain, own)))]

        return [
            Way("32 threads", in_all_threads, [1]),
            Way("one score()", lambda: [(value,) for value in _last(self.plain.score(records))], [1]),
        ]


def _value(found: Any) -> float:
    [value] = found
    return float(value)


def _last(scores: Sequence[Any]) -> list[float]:
    return [score.steps[-1] for score in scores if isinstance(score, Score) and score.steps]


def cases(work: Workload) -> list[Case]:
    return [
        Case("12 steps", lambda s: work.appended(s, 12), {"anew": 6.0}, {"anew": 4.0}),
        Case("an uncached conversation", work.uncached, {"plain": 1 / 1.02}, times=3),
        Case("4 candidates a step, 20 steps", work.candidates, {"a call a step": 3.3, "a call a candidate": 10.0}),
        Case("4 beams, 20 steps", work.beams, {"a call a step": 8.0}),
        Case("40 steps", lambda s: work.appended(s, 40), {"anew": 15.0}, {"anew": 11.0}),
        Case("64 requests behind a system prompt", work.behind_a_system_prompt, {"anew": 4.5}),
        Case("32 threads, all at once", lambda s: work.threads(s, all_at_once), {"one score()": 1 / 1.05}),
        Case("32 threads, closed loop", lambda s: work.threads(s, closed_loop), {"one score()": 1 / 1.15}),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder with 4 GB free")
    parser.add_argument("--minutes", type=float, default=14.0, help="no case, and no repeat, begins after that")
    parser.add_argument(
        "--repeats", type=int, default=3, help="of a case, of which the median counts; fewer with --minutes"
    )
    parser.add_argument("--only", action="append", help="a part of a case's name (repeatable; default: all)")
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--tiny", action="store_true", help="a model of no size, to try the script")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr] # as it is known, also into a file
    print(banner())
    bundle = prepared(arguments)
    end = time.perf_counter() + 60 * arguments.minutes
    with (
        RewardModel.load(bundle, device=arguments.device) as plain,
        RewardModel.load(bundle, device=arguments.device, prefix_cache=CACHE) as cached,
    ):
        print(f"{plain.backend} in {plain.precision}, prefix cache {cached.prefix_cache}")
        work = Workload(plain, cached)
        seconds = seconds_of_passes(work, cached)
        report: dict[str, Any] = {"machine": describe(), "passes": seconds, "complete": False, "cases": []}
        chosen = [c for c in cases(work) if not arguments.only or any(part in c.name for part in arguments.only)]
        for number, case in enumerate(chosen):
            if time.perf_counter() < end:
                left = (end - time.perf_counter()) / (len(chosen) - number)
                report["cases"].append(measured(case, seconds, arguments.repeats, time.perf_counter() + left, cached))
                report["complete"] = number + 1 == len(chosen)
            else:
                print(f"{case.name}: not measured, {arguments.minutes:g} minutes are over")
            if arguments.json:
                arguments.json.write_text(json.dumps(report, indent=1) + "\n")


def prepared(arguments: argparse.Namespace) -> Path:
    """The bundle, made where it is not there: a token classifier whose steps end in a line end (trl-prm)."""
    name = "prm-tiny" if arguments.tiny else "prm-426m"
    bundle: Path = arguments.work / f"{name}-{arguments.dtype}.bundle"
    if not bundle.exists():
        from rmexport import ExportOptions, export

        checkpoint = write_checkpoint(arguments.work / name, TINY if arguments.tiny else SHAPE, steps=True)
        export(str(checkpoint), bundle, ExportOptions(dtype=arguments.dtype, recipe="trl-prm"))
    return bundle


def seconds_of_passes(work: Workload, cached: RewardModel) -> dict[int, float]:
    """How long a pass of one conversation takes, by its tokens; both models are warm afterwards."""
    rng = random.Random("passes")
    for model in (work.plain, cached):
        model.score_steps(work.text(rng, PROMPT), [work.text(rng, STEP)])
    found: dict[int, float] = {}
    for length in LENGTHS:
        step = work.text(rng, STEP - 1)
        prompt = work.text(rng, max(1, length - STEP)) if length > STEP else "a"
        texts = (prompt, [step if length >= STEP else "b"])
        spent = []
        for _ in range(1 if length > 500 else 5):
            begin = time.perf_counter()
            tokens = work.plain.score_steps(*texts).tokens
            spent.append(time.perf_counter() - begin)
        found[tokens] = statistics.median(spent)
    print("a pass: " + ", ".join(f"{tokens} tokens {1e3 * took:.0f} ms" for tokens, took in found.items()))
    return found


def measured(case: Case, passes: dict[int, float], repeats: int, end: float, cached: RewardModel) -> dict[str, Any]:
    """All ways of a case, in turn, printed and as figures."""
    spent: dict[str, list[float]] = {}
    counted: dict[str, int] = {}
    for seed in range(repeats * case.times):
        begun = time.perf_counter()
        if seed and begun + sum(own[-1] for own in spent.values()) > end:
            break
        ways = case.ways(seed)
        expected = None
        for way in ways if seed % 2 == 0 else ways[::-1]:
            before, begin = cached.statistics, time.perf_counter()
            found = way.run()
            spent.setdefault(way.name, []).append(time.perf_counter() - begin)
            counted[way.name] = cached.statistics.computed - before.computed
            assert expected is None or found == expected, f"{case.name}: {way.name} has other scores"
            expected = found
    return shown(case, ways, spent, passes, counted[ways[0].name])


def shown(
    case: Case, ways: Sequence[Way], spent: dict[str, list[float]], passes: dict[int, float], computed: int
) -> dict[str, Any]:
    new, *others = ways
    costs = {way.name: sum(np.interp(way.passes, list(passes), list(passes.values())).tolist()) for way in ways}
    rows = []
    for way in others:
        ratios = [old / own for old, own in zip(spent[way.name], spent[new.name], strict=True)]
        row = {
            "against": way.name,
            "ratio": statistics.median(ratios),
            "target": case.targets[way.name],
            "target on AMX": case.amx.get(way.name, case.targets[way.name]),
            "bound": costs[way.name] / costs[new.name],
            "tokens": sum(way.passes) / sum(new.passes),
            "seconds": {new.name: spent[new.name], way.name: spent[way.name]},
        }
        rows.append(row)
        print(
            f"{case.name}: {new.name} {statistics.median(spent[new.name]):.2f} s, {way.name} "
            f"{statistics.median(spent[way.name]):.2f} s, {row['ratio']:.2f}x (wanted {row['target']:.2f}); bound "
            f"{row['bound']:.2f}x, of which {row['ratio'] / row['bound']:.0%}; tokens {row['tokens']:.2f}x; "
            f"{len(ratios)} repeat(s), {computed} tokens computed after the cache"
        )
    return {"case": case.name, "computed": computed, "rows": rows}


if __name__ == "__main__":
    main()
