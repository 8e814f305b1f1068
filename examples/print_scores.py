"""Print what a bundle says about conversations: every objective's reward and how much the prompt makes it count.

python examples/print_scores.py BUNDLE CONVERSATIONS
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rmruntime import RewardModel, Score

QUOTE = 84


def main() -> None:
    """Score every record and print one table each."""
    if len(sys.argv) != 3:
        sys.exit("usage: print_scores.py BUNDLE CONVERSATIONS")
    lines = Path(sys.argv[2]).read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines if line.strip()]
    with RewardModel.load(sys.argv[1]) as model:
        scored = model.score(records)
    for record, result in zip(records, scored, strict=True):
        print(_table(record, result if isinstance(result, list) else [result]), end="\n\n")


def _table(record: Mapping[str, Any], scores: list[Score]) -> str:
    """Answers of one prompt share its gate; each has its own column of rewards."""
    prompt, answers = _texts(record)
    letters = "ABCDEFGH"[: len(answers)]
    lines = [f"=== {record.get('id', '')}", f"prompt    {_quote(prompt)}"]
    lines += [f"answer {letter}  {_quote(answer)}" for letter, answer in zip(letters, answers, strict=True)]
    lines += ["", f"  {'objective':<22}{'gate':>7}   " + "".join(f"{'reward ' + letter:>10}" for letter in letters)]
    for name, weight in (scores[0].gating or {}).items():
        rewards = "".join(f"{(score.rewards or {})[name]:>10.2f}" for score in scores)
        lines.append(f"  {name:<22}{weight:>7.2f}   {rewards}")
    lines.append(f"  {'score':<32}" + "".join(f"{score.value:>10.3f}" for score in scores))
    return "\n".join(lines)


def _texts(record: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The last request and the answers to it."""
    if "messages" in record:
        *turns, answer = record["messages"]
        return turns[-1]["content"], [answer["content"]]
    prompt = record["prompt"] if isinstance(record["prompt"], str) else record["prompt"][-1]["content"]
    return prompt, record["responses"] if "responses" in record else [record["response"]]


def _quote(text: str) -> str:
    """One line, cut to fit."""
    line = " ".join(text.split())
    return line if len(line) <= QUOTE else line[: QUOTE - 3] + "..."


if __name__ == "__main__":
    main()
