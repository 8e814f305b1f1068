"""Manifests of the published input formats over the tiny tokenizer, for tests of the text half."""

from dataclasses import replace
from typing import Literal

from rmruntime.bundle.manifest import SCHEMA_VERSION, Backbone, Format, Manifest, Output, PositionRule, Source
from tiny_tokenizer import TinyTokenizer

HEADER_TEXT = "<|start_header_id|>assistant<|end_header_id|>\n\n"


def classifier(tiny: TinyTokenizer, form: Format | None = None, *, max_length: int = 512) -> Manifest:
    """A sequence classifier: one logit at the last token that is not the pad token."""
    rule = PositionRule(rule="last_not_pad", pad_id=tiny.pad_id)
    return _manifest(tiny, form or chat_format(tiny), {"score": rule}, max_length)


def gated(tiny: TinyTokenizer, form: Format | None = None, *, max_length: int = 512) -> Manifest:
    """ArmoRM's positions: the score at the end, the gate where the last user turn closes."""
    rules = {
        "score": PositionRule(rule="last_not_pad", pad_id=tiny.pad_id),
        "gate": PositionRule(rule="pattern_start", tokens=tiny.gate_pattern, text=f"<|eot_id|>{HEADER_TEXT}"),
    }
    return _manifest(tiny, form or chat_format(tiny), rules, max_length)


def grader(tiny: TinyTokenizer, unit: Literal["sequence", "step"], *, max_length: int = 512) -> Manifest:
    """RLHFlow's graders: ORM (unit "sequence") and PRM (unit "step"), read just before the '+' of each reply."""
    form = replace(chat_format(tiny), layout="graded_turns", unit=unit, reply="+")
    if unit == "sequence":
        form = replace(form, remove=(" ки",))
    else:
        form = replace(form, step_separators=("ки\n", "\n\n"))
    tokens = (*tiny.assistant_header, tiny.plus_id)
    rule = PositionRule(rule="before_marker", tokens=tokens, text=f"{HEADER_TEXT}+")
    return _manifest(tiny, form, {"reply": rule}, max_length)


def chat_format(tiny: TinyTokenizer) -> Format:
    """The conversation through the template, its BOS as the template writes it."""
    return Format(layout="chat", template_variables=tiny.variables, pinned_date="2024-07-26", bos_id=tiny.bos_id)


def _manifest(tiny: TinyTokenizer, form: Format, rules: dict[str, PositionRule], max_length: int) -> Manifest:
    backbone = Backbone(
        model_type="llama",
        architecture="LlamaForSequenceClassification",
        hidden_size=64,
        num_layers=2,
        vocab_size=tiny.vocab_size,
        max_length=max_length,
        parameters=0,
    )
    return Manifest(
        schema_version=SCHEMA_VERSION,
        created_by="tests",
        source=Source(repo=None, revision=None),
        backbone=backbone,
        head="any",
        dtype="bf16",
        options={},
        format=form,
        positions=rules,
        outputs=(Output(name="score", per=form.unit),),
        score="score",
        graphs=(),
        files=(),
    )
