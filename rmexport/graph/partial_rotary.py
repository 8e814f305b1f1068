"""Rotary embeddings on the first part of each head, as a rotation of whole heads.

Half-split rotation pairs feature j with j + head_dim / 2. With the rows of the query and key projections in the order
given here, every pair is either one of the model's own or two features whose angle is 0; products of queries and keys
do not notice, as both are reordered alike.
"""

from rmexport.errors import UnsupportedModel


def rotary_order(heads: int, head_dim: int, rotary_dim: int) -> tuple[int, ...]:
    """Rows of a projection [heads * head_dim, *] in the order in which rotating whole heads is right.

    Raises UnsupportedModel where the rotated or the other part of a head cannot be paired.

    >>> rotary_order(heads=1, head_dim=8, rotary_dim=4)
    (0, 1, 4, 5, 2, 3, 6, 7)
    """
    half = rotary_dim // 2
    return _order(heads, head_dim, rotary_dim, (range(half), range(half, rotary_dim)))


def interleaved_order(heads: int, head_dim: int, rotary_dim: int) -> tuple[int, ...]:
    """`rotary_order` where the model pairs neighbours, features 2j and 2j + 1, in place of halves (GLM).

    >>> interleaved_order(heads=1, head_dim=8, rotary_dim=4)
    (0, 2, 4, 5, 1, 3, 6, 7)
    """
    return _order(heads, head_dim, rotary_dim, (range(0, rotary_dim, 2), range(1, rotary_dim, 2)))


def _order(heads: int, head_dim: int, rotary_dim: int, pairs: tuple[range, range]) -> tuple[int, ...]:
    """`pairs` are the first and the second features of the model's pairs."""
    if rotary_dim % 2 or head_dim % 2:
        raise UnsupportedModel(
            f"{rotary_dim} of each head's {head_dim} features are rotated; both must be even numbers"
        )
    passed, rest = range(rotary_dim, head_dim), (head_dim - rotary_dim) // 2
    one = (*pairs[0], *passed[:rest], *pairs[1], *passed[rest:])
    return tuple(head * head_dim + feature for head in range(heads) for feature in one)
