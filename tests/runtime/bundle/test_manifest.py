"""The format's fields: described, written and read back, and absent from older bundles."""

import dataclasses
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from rmruntime.bundle.manifest import Format, PositionRule, decode_manifest, digest, encode_manifest
from rmruntime.errors import BundleError
from text_formats import classifier
from tiny_tokenizer import TinyTokenizer, build_tokenizer

FULL = Format(
    layout="text_pair",
    template=None,
    generation_prompt=True,
    system="S",
    append=(7, 8),
    step_tag=" ки",
    step_separator="\n",
    pair_ids=((1,), (), (2, 2)),
    pair_types=(0, 0, 0, 1, 1),
    pair_prefixes=("Q:", "A:"),
    preference_template="{{ a }}{{ b }}",
)
ADDED = (
    *("generation_prompt", "system", "append", "step_tag", "step_separator"),
    *("pair_ids", "pair_types", "pair_prefixes", "preference_template"),
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyTokenizer:
    folder: Path = tmp_path_factory.mktemp("tiny")
    return build_tokenizer(folder)


def test_every_field_of_the_format_is_described() -> None:
    for field in dataclasses.fields(Format):
        assert re.search(rf"\b{field.name}\b", Format.__doc__ or ""), field.name


def test_formats_are_read_as_they_were_written(tiny: TinyTokenizer) -> None:
    rules = {"a": PositionRule(rule="step_end"), "b": PositionRule(rule="before_first_pad", pad_id=2)}
    manifest = replace(classifier(tiny, FULL), positions=rules)
    assert decode_manifest(encode_manifest(manifest)) == manifest


def test_older_bundles_have_none_of_the_later_fields(tiny: TinyTokenizer) -> None:
    manifest = classifier(tiny)
    data = json.loads(encode_manifest(manifest))
    for name in ADDED:
        del data["format"][name]
    assert decode_manifest(json.dumps(data | {"digest": digest(data)}).encode()) == manifest


def test_unknown_layouts_and_rules_are_refused(tiny: TinyTokenizer) -> None:
    data = json.loads(encode_manifest(classifier(tiny)))
    for change in ({"format": data["format"] | {"layout": "essay"}}, {"positions": {"score": {"rule": "middle"}}}):
        changed = data | change
        with pytest.raises(BundleError, match="expected one of"):
            decode_manifest(json.dumps(changed | {"digest": digest(changed)}).encode())
