"""What an encoder's checkpoint says of itself: classifier, labels, text format, limits. Reads no weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rmexport.checkpoint import Checkpoint
from rmexport.checkpoint.config_fields import (
    FEATURES,
    LABELS,
    LAYERS,
    LENGTH,
    TOKEN_ID,
    VOCABULARY,
    Range,
    architectures,
    integer,
    optional_integer,
)
from rmexport.checkpoint.label_names import label_names
from rmexport.checkpoint.quantized_tensors import refuse_quantized
from rmexport.encoders.config_numbers import check_encoder_numbers
from rmexport.encoders.pair_format import PairFormat, read_pair_format
from rmexport.errors import CheckpointError, OptionError, UnsupportedModel
from rmexport.options import ExportOptions
from rmexport.spec.checkpoint_spec import CheckpointSpec, choose_dtype, family_reason
from rmruntime.bundle.manifest import Backbone, Format, Output, PositionRule
from rmruntime.text.tokenizer_file import open_tokenizer

HEAD = "sequence_classification"
# model_type -> transformers' own class, whose forward is traced.
ARCHITECTURES: Mapping[str, str] = {
    "bert": "BertForSequenceClassification",
    "deberta-v2": "DebertaV2ForSequenceClassification",
    "distilbert": "DistilBertForSequenceClassification",
    "electra": "ElectraForSequenceClassification",
    "modernbert": "ModernBertForSequenceClassification",
    "roberta": "RobertaForSequenceClassification",
    "xlm-roberta": "XLMRobertaForSequenceClassification",
}
# Those whose tokenizers return token types (their model_input_names), with transformers' default of type_vocab_size.
_TYPE_VOCAB_SIZES: Mapping[str, int] = {"bert": 2, "deberta-v2": 0, "electra": 2}
# Those that count positions from the pad id (transformers, create_position_ids_from_input_ids), which is 1 by default.
_POSITIONS_FROM_PAD = ("roberta", "xlm-roberta")
_CLASSIFIERS = ("classifier.out_proj.weight", "classifier.weight")


@dataclass(frozen=True, kw_only=True)
class EncoderSpec(CheckpointSpec):
    """An encoder with a classifier, whose one graph is traced.

    `labels` are the names of the classifier's rows and `score_row` the one that is the score, None when nobody said.
    `pad_id` fills padded rows.
    """

    labels: tuple[str, ...]
    score_row: int | None
    pad_id: int

    @property
    def positions(self) -> Mapping[str, PositionRule]:
        """One result per sequence: the traced graph pools by itself."""
        return {"score": PositionRule(rule="last")}

    @property
    def outputs(self) -> tuple[Output, ...]:
        """The score, where a row is one, and of several labels the rewards."""
        score = (Output(name="score", per="sequence"),) if self.score_row is not None else ()
        rewards = (Output(name="rewards", per="sequence", labels=self.labels),) if len(self.labels) > 1 else ()
        return score + rewards

    @property
    def score(self) -> str | None:
        """That of `score_row`."""
        return None if self.score_row is None else "score"


def is_encoder(config: Mapping[str, Any]) -> bool:
    """Whether config.json describes an encoder with a classifier on whole sequences.

    >>> is_encoder({"model_type": "bert", "architectures": ["BertForSequenceClassification"]})
    True
    """
    classifies = any(name.endswith("ForSequenceClassification") for name in architectures(config))
    return classifies and str(config.get("model_type")) in ARCHITECTURES


def read_encoder_spec(checkpoint: Checkpoint, options: ExportOptions) -> EncoderSpec:
    """Understand an encoder's checkpoint.

    Raises CheckpointError, UnsupportedModel, or OptionError for options that an encoder cannot have.
    """
    _check_options(options)
    config = checkpoint.config
    _check_architecture(config)
    check_encoder_numbers(config)
    if config.get("quantization_config"):  # transformers would use it even where the weights are plain
        raise CheckpointError("the checkpoint is quantized; encoders are exported from bf16, fp16 or fp32 weights")
    refuse_quantized(config, checkpoint.tensors)
    if checkpoint.base is not None:
        raise UnsupportedModel(
            f"{checkpoint.folder} is an adapter of an encoder; merge it into its base model (peft's merge_and_unload)"
        )
    tokenizer = checkpoint.read_tokenizer()
    rows = _classifier_rows(checkpoint)
    labels = label_names(config, rows, stem="label")
    score_row = _score_row(labels, options)
    pair = read_pair_format(open_tokenizer(tokenizer.tokenizer_json))
    backbone = _backbone(checkpoint)
    return EncoderSpec(
        family_name=backbone.model_type,
        head_name=HEAD,
        dtype=_dtype(checkpoint, options),
        backbone=backbone,
        format=_format(config, pair, options),
        tokenizer=tokenizer,
        because=_because(backbone),
        notes=(*checkpoint.notes, *_notes(score_row), *tokenizer.notes),
        labels=labels,
        score_row=score_row,
        pad_id=_pad_id(config),
    )


def _check_options(options: ExportOptions) -> None:
    given = {"recipe": options.recipe, "bos": options.bos}
    if refused := [f"--{name} {value}" for name, value in given.items() if value is not None]:
        raise OptionError(
            f"{', '.join(refused)}: an encoder reads a question and an answer as its tokenizer pairs them; leave it out"
        )
    if options.quantize is not None:
        raise OptionError(
            f"--quantize {options.quantize} cannot be had for an encoder, whose traced graph reads its weights as they "
            "are: leave it out (encoders are small)"
        )
    if options.weights == "link":
        raise OptionError("--weights link cannot be had for an encoder, whose weights are traced: use --weights copy")
    if options.max_shard_size is not None:
        raise OptionError("--max-shard-size cannot be had for an encoder, whose weights are one file: leave it out")


def _check_architecture(config: Mapping[str, Any]) -> None:
    found, model_type = (*architectures(config), "none")[0], config.get("model_type")
    expected = ARCHITECTURES.get(str(model_type))
    if found != expected:  # the publisher's own code under a known model_type included: it would be left out
        known = f"{expected} for this model_type" if expected else f"one of {', '.join(sorted(ARCHITECTURES.values()))}"
        raise UnsupportedModel(f"config.json has architecture {found} and model_type {model_type!r}; expected {known}")


def _classifier_rows(checkpoint: Checkpoint) -> int:
    for name in _CLASSIFIERS:
        if name in checkpoint.tensors:
            return checkpoint.tensors[name].shape[0]
    raise CheckpointError(
        f"the checkpoint has no classifier: none of {', '.join(_CLASSIFIERS)}; is it the encoder alone, not fine-tuned?"
    )


def _score_row(labels: tuple[str, ...], options: ExportOptions) -> int | None:
    wanted = options.score_label
    if wanted is None:
        return 0 if len(labels) == 1 else None
    if wanted not in labels:
        raise OptionError(f"score label {wanted!r} is none of this classifier's labels: {', '.join(labels)}")
    return labels.index(wanted)


def _dtype(checkpoint: Checkpoint, options: ExportOptions) -> str:
    """`choose_dtype` of the weights, without saved buffers such as position_ids."""
    tensors = checkpoint.tensors.values()
    return choose_dtype((info for info in tensors if not info.dtype.startswith(("int", "uint", "bool"))), options)


def _format(config: Mapping[str, Any], pair: PairFormat, options: ExportOptions) -> Format:
    return Format(
        layout="text_pair",
        template=None,
        pair_ids=pair.ids,
        pair_types=_pair_types(config, pair),
        step_joiner=options.step_joiner or "",
    )


def _pair_types(config: Mapping[str, Any], pair: PairFormat) -> tuple[int, ...]:
    """The pair's token types, () for a model that reads none."""
    default = _TYPE_VOCAB_SIZES.get(config["model_type"], 0)
    known = optional_integer({"type_vocab_size": default, **config}, "type_vocab_size", Range(0, LABELS.most))
    if config["model_type"] not in _TYPE_VOCAB_SIZES or not known:
        return ()
    if max(pair.types) >= known:
        raise CheckpointError(
            f"the tokenizer gives token types up to {max(pair.types)}, config.json's type_vocab_size is {known}: "
            "tokenizer and model do not belong together"
        )
    return pair.types


def _because(backbone: Backbone) -> dict[str, str]:
    return {
        "family": family_reason(backbone.model_type),
        "head": f"architecture {backbone.architecture}, whose own forward is traced",
        "format": "how its tokenizer joins a pair of texts",
    }


def _backbone(checkpoint: Checkpoint) -> Backbone:
    config = checkpoint.config
    distilled = config["model_type"] == "distilbert"
    return Backbone(
        model_type=str(config["model_type"]),
        architecture=architectures(config)[0],
        hidden_size=integer(config, "dim" if distilled else "hidden_size", FEATURES),
        num_layers=integer(config, "n_layers" if distilled else "num_hidden_layers", LAYERS),
        vocab_size=integer(config, "vocab_size", VOCABULARY),
        max_length=_max_length(config),
        parameters=sum(info.size for info in checkpoint.tensors.values()),
    )


def _max_length(config: Mapping[str, Any]) -> int:
    positions = integer(config, "max_position_embeddings", LENGTH)
    return positions - _pad_id(config) - 1 if config["model_type"] in _POSITIONS_FROM_PAD else positions


def _pad_id(config: Mapping[str, Any]) -> int:
    counted = config["model_type"] in _POSITIONS_FROM_PAD
    found = optional_integer({"pad_token_id": 1 if counted else 0, **config}, "pad_token_id", TOKEN_ID)
    if found is None and counted:
        raise CheckpointError("config.json: pad_token_id is null, expected a token id: positions are counted from it")
    return found or 0  # where it is null, the mask hides it


def _notes(score_row: int | None) -> tuple[str, ...]:
    if score_row is None:
        return ("several labels and none chosen as the score: results carry rewards only (--score-label)",)
    return ("scores are the classifier's raw logits; a text-classification pipeline would apply a sigmoid to them",)
