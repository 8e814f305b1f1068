"""A recipe made of Sentence Transformers' files, for a CrossEncoder that neither the user nor its name has one for."""

from pathlib import Path

from tokenizers import Tokenizer

from rmexport.checkpoint.cross_encoder_files import read_cross_encoder
from rmexport.errors import UnsupportedModel
from rmexport.prompt.recipe import Recipe
from rmexport.prompt.template_probe import TemplateProbe

NAME = "sentence-transformers"
_PAIR = ("Where does the heron nest?", "By the weir.")


def cross_encoder_recipe(folder: Path, labels: int, text: TemplateProbe) -> Recipe | None:
    """The recipe that the files in `folder` amount to; None where they are no CrossEncoder's.

    `labels` are the rows of the checkpoint's own classifier. Raises UnsupportedModel for what cannot be a recipe.
    """
    files = read_cross_encoder(folder, labels)
    if files is None:
        return None
    pieces = () if files.roles else _pair_pieces(text.tokenizer)
    sigmoid = files.activation == "sigmoid"
    one_row = files.dense or ("score.weight" if sigmoid and labels == 1 and files.score == "classifier" else None)
    return Recipe(
        name=NAME,
        description="as Sentence Transformers' files say",
        head="token_logits" if files.token_ids else "one_row" if one_row else None,
        token_ids=files.token_ids,
        score_output="logit" if len(files.token_ids) > 1 and not sigmoid else None,
        head_tensor=one_row,
        activation="sigmoid" if sigmoid and (one_row or len(files.token_ids) == 1) else None,
        position="last_not_pad" if one_row and files.dense is None else None,
        layout="query_document",
        pieces=pieces,
        system=files.prompt,
        generation_prompt=files.generation_prompt,
    )


def _pair_pieces(tokenizer: Tokenizer) -> tuple[str, ...]:
    """The query, after its prompt, and the document as the tokenizer puts a pair together: side by side."""
    query, document = (tokenizer.encode(part, add_special_tokens=False).ids for part in _PAIR)
    found = tokenizer.encode(*_PAIR, add_special_tokens=True).ids
    if found != query + document:
        raise UnsupportedModel(
            "Sentence Transformers' files have the tokenizer put query and document together, with special tokens of "
            "its own around them, which is not supported for decoders; give a recipe with pieces (--recipe)"
        )
    return "{{ instruction }}{{ query }}", "{{ document }}"
