"""Classifiers of backbones for which transformers has none, written as it writes the others, and registered there.

`family_checkpoint` makes them like any other; of those that see images the whole model runs, on text.
"""

from typing import ClassVar

from transformers import AutoModelForSequenceClassification, GraniteConfig, Qwen2_5_VLConfig, Qwen3VLConfig
from transformers.modeling_layers import GenericForSequenceClassification
from transformers.models.granite.modeling_granite import GranitePreTrainedModel
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLPreTrainedModel
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLPreTrainedModel


class GraniteForSequenceClassification(GenericForSequenceClassification, GranitePreTrainedModel):
    """Granite with a row of scores."""


class Qwen2_5_VLForSequenceClassification(GenericForSequenceClassification, Qwen2_5_VLPreTrainedModel):
    """Qwen2.5-VL with a row of scores."""

    config_class: ClassVar[type] = Qwen2_5_VLConfig


class Qwen3VLForSequenceClassification(GenericForSequenceClassification, Qwen3VLPreTrainedModel):
    """Qwen3-VL with a row of scores."""

    config_class: ClassVar[type] = Qwen3VLConfig


def register() -> None:
    """Make AutoModelForSequenceClassification find them."""
    for config, model in (
        (GraniteConfig, GraniteForSequenceClassification),
        (Qwen2_5_VLConfig, Qwen2_5_VLForSequenceClassification),
        (Qwen3VLConfig, Qwen3VLForSequenceClassification),
    ):
        AutoModelForSequenceClassification.register(config, model, exist_ok=True)
