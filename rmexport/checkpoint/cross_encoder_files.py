"""Reads the files that Sentence Transformers saves beside a CrossEncoder: how its score is made, its prompt and text.

Source: huggingface/sentence-transformers, cross_encoder/model.py (activation_fn), base/model.py (prompts),
base/modules/transformer.py and dense.py, cross_encoder/modules/logit_score.py.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rmexport.checkpoint.config_fields import (
    TOKEN_ID,
    integer,
    optional_integer,
    optional_text,
    read_json_object,
    section,
)
from rmexport.errors import CheckpointError, UnsupportedModel

MODULES, SETTINGS, TRANSFORMER = "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"
_CHAINS = {  # the classes of a CrossEncoder's modules -> what is read
    ("Transformer",): "classifier",
    ("Transformer", "LogitScore"): "tokens",
    ("Transformer", "Pooling", "Dense"): "dense",
}
_ACTIVATIONS: Mapping[str, Literal["sigmoid"] | None] = {"Identity": None, "Sigmoid": "sigmoid"}
_MODULE_LIMIT = 1 << 20  # bytes


@dataclass(frozen=True, kw_only=True)
class CrossEncoderFiles:
    """What the files say.

    `score` is what it is made of: the transformer's own classifier, a Dense layer on the last token (its weight is the
    tensor `dense`), or the logits of `token_ids`, the true token before the false one. `activation` is applied to it.
    `prompt` is the default one. With `roles` the chat template renders messages of the roles system, query and
    document, otherwise the tokenizer takes the query, after the prompt, and the document as a pair.
    """

    score: Literal["classifier", "dense", "tokens"]
    token_ids: tuple[int, ...] = ()
    dense: str | None = None
    activation: Literal["sigmoid"] | None
    prompt: str | None
    roles: bool
    generation_prompt: bool


def read_cross_encoder(folder: Path, labels: int = 1) -> CrossEncoderFiles | None:
    """What the files in `folder` say; None where there are none, or those of another model than a CrossEncoder.

    `labels` are those of a classifier, which has no activation where there are several. Raises CheckpointError for
    damaged files and UnsupportedModel for modules, activations or texts that are not supported.
    """
    modules = _modules(folder)
    settings = _optional(folder / SETTINGS)
    chain = tuple(kind for kind, _ in modules)
    if not modules or (settings.get("model_type") != "CrossEncoder" and "LogitScore" not in chain):
        return None
    score = _CHAINS.get(chain)
    if score is None or modules[0][1]:
        known = "; ".join(", ".join(kinds) for kinds in _CHAINS)
        raise UnsupportedModel(
            f"{MODULES} has the modules {', '.join(chain)}, a CrossEncoder's are supported where they are one of: "
            f"{known}; give a recipe (--recipe)"
        )
    own = folder / modules[-1][1]
    roles, generation_prompt = _text(_optional(folder / TRANSFORMER))
    default = 1 if score != "classifier" else labels
    return CrossEncoderFiles(
        score=score,  # type: ignore[arg-type] # a value of _CHAINS
        token_ids=_token_ids(own) if score == "tokens" else (),
        dense=_dense(own, modules[-1][1], folder) if score == "dense" else None,
        activation=_activation(settings.get("activation_fn"), "Sigmoid" if default == 1 else "Identity"),
        prompt=_prompt(settings),
        roles=roles,
        generation_prompt=generation_prompt,
    )


def dense_file(folder: Path) -> str | None:
    """The weights of a CrossEncoder's Dense layer, relative to `folder`; None without one.

    >>> dense_file(Path()) is None
    True
    """
    modules = _modules(folder)
    if tuple(kind for kind, _ in modules) != ("Transformer", "Pooling", "Dense"):
        return None
    file = f"{modules[-1][1]}/model.safetensors"
    return file if (folder / file).is_file() else None


def module_folders(folder: Path) -> list[str]:
    """The folders of the modules that have one of their own.

    >>> module_folders(Path())
    []
    """
    return [path for _, path in _modules(folder) if path]


def module_files(folder: Path) -> list[str]:
    """The names of these files that are in `folder`, modules' own among them."""
    if not (folder / MODULES).is_file():
        return []
    names = [MODULES, SETTINGS, TRANSFORMER, *(f"{path}/config.json" for _, path in _modules(folder) if path)]
    return [name for name in names if (folder / name).is_file()]


def _modules(folder: Path) -> list[tuple[str, str]]:
    """The class and the folder of each module. Raises CheckpointError for a damaged file."""
    path = folder / MODULES
    if not path.is_file():
        return []
    try:
        data = json.loads(path.read_bytes()[:_MODULE_LIMIT])
        found = [(str(module["type"]).rpartition(".")[2], str(module["path"])) for module in data]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is no list of modules ({type(error).__name__}: {error}), as Sentence Transformers writes it; "
            "restore it from the original checkpoint"
        ) from error
    if outside := [part for _, part in found if part and not part.replace("_", "").isalnum()]:
        raise CheckpointError(f"{path} names the folder {outside[0]!r}, expected a plain name such as 1_LogitScore")
    return found


def _token_ids(folder: Path) -> tuple[int, ...]:
    raw = read_json_object(folder / "config.json")
    false = optional_integer(raw, "false_token_id", TOKEN_ID)
    return (integer(raw, "true_token_id", TOKEN_ID), *(() if false is None else (false,)))


def _dense(folder: Path, name: str, checkpoint: Path) -> str:
    raw = read_json_object(folder / "config.json")
    pooling = _optional(checkpoint / _modules(checkpoint)[1][1] / "config.json")
    last = pooling.get("pooling_mode") in ("lasttoken", ["lasttoken"]) or pooling.get("pooling_mode_lasttoken") is True
    found = {
        "pooling_mode": "lasttoken" if last else pooling.get("pooling_mode"),
        "out_features": raw.get("out_features"),
        "activation_function": str(raw.get("activation_function")).rpartition(".")[2],
        "use_residual": raw.get("use_residual", False),
    }
    expected = {
        "pooling_mode": "lasttoken",
        "out_features": 1,
        "activation_function": "Identity",
        "use_residual": False,
    }
    if wrong := [
        f"{key} {found[key]!r} (expected {value!r})" for key, value in expected.items() if found[key] != value
    ]:
        raise UnsupportedModel(
            f"a CrossEncoder with Pooling and Dense is supported on the last token: {', '.join(wrong)}"
        )
    return f"{name}.linear.weight"


def _activation(stated: object, default: str) -> Literal["sigmoid"] | None:
    name = default if stated is None else str(stated).rpartition(".")[2]
    if name not in _ACTIVATIONS:
        raise UnsupportedModel(
            f"{SETTINGS} has the activation_fn {stated!r}, supported are {' and '.join(_ACTIVATIONS)}; give a recipe "
            "(--recipe), whose scores are raw"
        )
    return _ACTIVATIONS[name]


def _prompt(settings: Mapping[str, Any]) -> str | None:
    name = optional_text(settings, "default_prompt_name")
    if name is None:
        return None
    prompts = section(settings, "prompts")
    if not isinstance(prompts.get(name), str):
        raise CheckpointError(f"{SETTINGS} has the default prompt {name!r} and no text of it in prompts")
    return prompts[name] or None


def _text(transformer: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether the chat template renders the pair, and whether it opens a reply."""
    message = section(section(transformer, "modality_config"), "message")
    if message.get("format", "flat") != "flat":
        raise UnsupportedModel(
            f"{TRANSFORMER} has messages of the format {message['format']!r}, whose contents are lists of parts: only "
            "flat text is supported; give a recipe (--recipe)"
        )
    template = section(section(transformer, "processing_kwargs"), "chat_template")
    if unknown := sorted(set(template) - {"add_generation_prompt", "restore_suffix"}):
        raise UnsupportedModel(
            f"{TRANSFORMER} has chat_template settings that are not supported: {', '.join(unknown)}; give a recipe "
            "(--recipe)"
        )
    return bool(message), template.get("add_generation_prompt") is True


def _optional(path: Path) -> dict[str, Any]:
    return read_json_object(path) if path.is_file() else {}
