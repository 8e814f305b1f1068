"""What transformers gives for an encoder: the reference of `verify`, one unpadded sequence at a time."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from rmexport.checkpoint import Checkpoint
from rmexport.encoders.classifier import load_classifier
from rmexport.encoders.spec import EncoderSpec
from rmexport.verify.reference_pass import Meter, SequenceStates
from rmruntime.sequences import TokenSequence

LOGITS = "logits"
Values = Mapping[str, NDArray[np.float32]]


def encoder_states(
    checkpoint: Checkpoint, spec: EncoderSpec, sequences: Sequence[TokenSequence], dtype: str, meter: Meter
) -> list[SequenceStates]:
    """The classifier's logits [1, labels] for each sequence, as transformers computes them in `dtype`.

    Raises CheckpointError for weights that transformers cannot load.
    """
    with meter.loading():
        model = load_classifier(checkpoint, len(spec.labels), dtype)
    found = []
    with torch.inference_mode():
        for i, sequence in enumerate(sequences):
            with meter.computing(len(sequence.ids), first=i == 0):
                logits = model(**_inputs(spec, sequence)).logits.float().numpy()
            found.append(SequenceStates(values={LOGITS: logits}, peaks={}))
    return found


def encoder_outputs(spec: EncoderSpec, states: Sequence[Values]) -> dict[str, NDArray[np.float32]]:
    """The outputs of the manifest, score [P] and rewards [P, labels], from the states of P sequences."""
    logits = np.concatenate([values[LOGITS] for values in states])
    outputs = {"rewards": logits} if len(spec.labels) > 1 else {}
    return outputs | ({} if spec.score_row is None else {"score": logits[:, spec.score_row]})


def encoder_reference(
    checkpoint: Checkpoint, spec: EncoderSpec, sequences: Sequence[TokenSequence], dtype: str
) -> dict[str, NDArray[np.float32]]:
    """The outputs in `dtype`: score [P] and rewards [P, labels] of P sequences.

    Raises CheckpointError for weights that transformers cannot load.
    """
    states = encoder_states(checkpoint, spec, sequences, dtype, Meter())
    return encoder_outputs(spec, [found.values for found in states])


def _inputs(spec: EncoderSpec, sequence: TokenSequence) -> dict[str, torch.Tensor]:
    inputs = {"input_ids": torch.from_numpy(sequence.ids)[None]}
    if spec.format.pair_types and sequence.types is not None:  # the others take no such argument
        inputs["token_type_ids"] = torch.from_numpy(sequence.types)[None]
    return inputs
