"""Search that a process reward model guides: of several next steps the best is taken, step by step, without PyTorch.

python examples/guided_decoding.py BUNDLE [CANDIDATES]

As in MAHALO's PRM-guided decoding, a solution's value is the sum of its steps' values, and each step is the candidate
with which that is largest. A small generator that knows sums, and errs, stands in for the language model: replace
`proposals`. The same search is done twice, with sessions, and without them, by scoring whole solutions anew; both find
the same solution, and what each computed is printed.
"""

import random
import sys
from collections.abc import Callable, Sequence

from rmruntime import InputError, RewardModel

NUMBERS = (17, 25, 38, 41, 9, 56)
QUESTION = f"What is {' + '.join(map(str, NUMBERS))}? Add one number after another, and show each step."
LONGEST = 20  # steps

Values = Sequence[float]
Choose = Callable[
    [list[str]], tuple[int, float]
]  # of candidates: the best one's place, and the value of all until there


def proposals(steps: Sequence[str], count: int) -> list[str]:
    """Next steps: the right one, wrong ones, and one that says nothing; always the same for the same steps so far."""
    rng = random.Random("\n".join(steps))
    done = len(steps) + 1
    if done >= len(NUMBERS):
        answers = [sum(NUMBERS), *(sum(NUMBERS) + rng.randint(-9, 9) for _ in range(count - 1))]
        found = [f"The answer is {answer}." for answer in answers]
    else:
        before, more = sum(NUMBERS[:done]), NUMBERS[done]
        sums = [before + more, *(before + more + rng.choice((-10, -1, 1, 10)) for _ in range(count - 2))]
        found = [f"Adding {more} to {before} makes {total}." for total in sums]
        found.append("Let me think about what comes next.")
    rng.shuffle(found)
    return found[:count]


def search(choose: Choose, count: int) -> tuple[list[str], float]:
    """The steps that are found, up to an answer, and their value."""
    steps: list[str] = []
    value = 0.0
    while len(steps) < LONGEST and not (steps and steps[-1].startswith("The answer")):
        candidates = proposals(steps, count)
        best, value = choose(candidates)
        steps.append(candidates[best])
    return steps, value


def by_sessions(model: RewardModel) -> Choose:
    """The candidates are appended to forks of the best solution so far, all in one pass."""
    session = model.session(QUESTION)

    def choose(candidates: list[str]) -> tuple[int, float]:
        nonlocal session
        forks = session.fork(len(candidates))
        scored = model.append_many(zip(forks, candidates, strict=True))
        best, value = _largest(
            [None if isinstance(own, InputError) else fork.steps for fork, own in zip(forks, scored, strict=True)]
        )
        session = forks[best]
        return best, value

    return choose


def anew(model: RewardModel) -> Choose:
    """Every candidate is scored with all that comes before it."""
    steps: list[str] = []

    def choose(candidates: list[str]) -> tuple[int, float]:
        scored = [model.score_steps(QUESTION, [*steps, text]).steps for text in candidates]
        best, value = _largest(scored)
        steps.append(candidates[best])
        return best, value

    return choose


def _largest(values: Sequence[Values | None]) -> tuple[int, float]:
    """The place of the solution whose steps' values have the largest sum, and that sum; None cannot be scored."""
    sums = {place: sum(own) for place, own in enumerate(values) if own is not None}
    best = max(sums, key=lambda place: sums[place])
    return best, sums[best]


def main() -> None:
    """Search in both ways, and print what was found and computed."""
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: guided_decoding.py BUNDLE [CANDIDATES]")
    count = int((*sys.argv, "5")[2])
    with RewardModel.load(sys.argv[1], prefix_cache="auto") as model:
        steps, value = search(by_sessions(model), count)
        sessions = model.statistics
    with RewardModel.load(sys.argv[1]) as model:
        assert search(anew(model), count) == (steps, value)
        whole = model.statistics
    print(QUESTION, *(f"  {step}" for step in steps), sep="\n")
    print(f"value {value:.4f}, of {len(steps)} steps with {count} candidates each")
    for name, own in (("sessions", sessions), ("anew", whole)):
        print(f"{name}: {own.computed} tokens computed in {own.passes} passes")
    print(f"that is {whole.computed / sessions.computed:.1f} times fewer")


if __name__ == "__main__":
    main()
