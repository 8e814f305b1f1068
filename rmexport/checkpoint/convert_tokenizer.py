"""Converts tokenizers that exist only as a sentencepiece, tiktoken or vocabulary file.

This is the only module of the package that needs transformers (extra `rmexport[convert]`).
"""

from pathlib import Path

from rmexport.errors import CheckpointError


def convert_tokenizer(folder: Path) -> bytes:
    """The folder's tokenizer as tokenizer.json.

    Raises CheckpointError when transformers is missing or cannot convert it. No code of the checkpoint is run.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise CheckpointError(
            f"{folder} has no tokenizer.json, and converting its tokenizer needs transformers ({error}): "
            "pip install 'rmexport[convert]'"
        ) from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # sentencepiece, tiktoken, protobuf and transformers each have errors of their own
        raise CheckpointError(
            f"the tokenizer in {folder} cannot be converted to tokenizer.json ({error}). Install "
            "'rmexport[convert]', or put a tokenizer.json (save_pretrained writes one) into the folder"
        ) from error
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise CheckpointError(
            f"the tokenizer in {folder} ({type(tokenizer).__name__}) has no equivalent in the tokenizers library, "
            "which bundles need; put a tokenizer.json of an equivalent one into the folder"
        )
    return str(backend.to_str()).encode()
