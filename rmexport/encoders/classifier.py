"""transformers' own classifier with a checkpoint's weights: traced for an export, and compared with by `verify`."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from rmexport.checkpoint import Checkpoint
from rmexport.checkpoint.tensors import RoutedReader
from rmexport.errors import CheckpointError

TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Saved buffers, poolers that the class leaves out, and the heads of pretraining.
_UNREAD = re.compile(
    r"(.*\.)?(position_ids|pooler\..*)"
    r"|(cls|lm_head|lm_predictions|mask_predictions|discriminator_predictions|generator_\w+|vocab_\w+|decoder)\..*"
)


def load_classifier(checkpoint: Checkpoint, labels: int, dtype: str) -> Any:
    """transformers' own classifier of this type in `dtype`, with as many labels as the weights have.

    Runs no code of the checkpoint. Raises CheckpointError where transformers cannot read it, for parameters that the
    checkpoint does not hold, which transformers would make up, and for tensors that this class has no place for.
    """
    folder, trust = str(checkpoint.folder), {"trust_remote_code": False, "local_files_only": True}
    try:
        with _quiet():  # what it would warn of is checked below
            config = transformers.AutoConfig.from_pretrained(folder, **trust)
            config.num_labels = labels
            _apply_rope_parameters(config, checkpoint.config)
            kind = transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
            model, loaded = kind.from_pretrained(
                config=config,
                dtype=TORCH_DTYPES[dtype],
                output_loading_info=True,
                **_weights(checkpoint, folder),
                **trust,
            )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"transformers {transformers.__version__} cannot load {folder}: {error}") from error
    if missing := sorted(loaded["missing_keys"]):
        raise CheckpointError(
            f"{folder} lacks {len(missing)} weights of {type(model).__name__}, {', '.join(missing[:5])} among them; "
            "is it a complete checkpoint of this class?"
        )
    if unread := sorted(name for name in loaded["unexpected_keys"] if not _UNREAD.fullmatch(name)):
        raise CheckpointError(
            f"{type(model).__name__} does not read {len(unread)} tensors of {folder}, {', '.join(unread[:5])} among "
            "them: the checkpoint is of another class than its config.json says"
        )
    return model.eval()


def _weights(checkpoint: Checkpoint, folder: str) -> dict[str, Any]:
    """The folder, or where its tensors have other names in it than here the tensors themselves."""
    if not isinstance(checkpoint.weights.reader, RoutedReader):
        return {"pretrained_model_name_or_path": folder}
    tensors = {name: _as_tensor(checkpoint.read(name)) for name in checkpoint.tensors}
    return {"pretrained_model_name_or_path": None, "state_dict": tensors}


def _as_tensor(array: NDArray[Any]) -> torch.Tensor:
    """A copy of a checkpoint array; torch cannot read ml_dtypes' bf16, but takes its bits."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))


@contextmanager
def _quiet() -> Iterator[None]:
    logs = transformers.logging
    level, bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    try:
        yield
    finally:
        logs.set_verbosity(level)
        if bars:
            logs.enable_progress_bar()


def _apply_rope_parameters(config: Any, raw: Mapping[str, Any]) -> None:
    """ModernBERT's config.json as transformers 5 writes it, for an older one, which would pass over these fields."""
    if raw.get("model_type") != "modernbert" or int(transformers.__version__.split(".")[0]) >= 5:
        return
    for kind, field in (("full_attention", "global_rope_theta"), ("sliding_attention", "local_rope_theta")):
        rope = (raw.get("rope_parameters") or {}).get(kind) or {}
        if rope.get("rope_type", "default") != "default":
            raise CheckpointError(f"config.json: {kind} has rope_type {rope['rope_type']!r}, expected 'default'")
        setattr(config, field, rope.get("rope_theta", getattr(config, field)))
    step = config.global_attn_every_n_layers
    regular = ["sliding_attention" if i % step else "full_attention" for i in range(config.num_hidden_layers)]
    if raw.get("layer_types", regular) != regular:
        raise CheckpointError(
            f"config.json: layer_types are {raw['layer_types']}; transformers {transformers.__version__} knows only "
            f"those with full attention in every {step}. layer"
        )
