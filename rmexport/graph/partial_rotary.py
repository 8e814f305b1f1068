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
    if rotary_dim % 2 or head_dim % 2:
        raise UnsupportedModel(
            f"{rotary_dim} of each head's {head_dim} features are rotated; both must be even numbers"
        )
    half, rest = rotary_dim // 2, (head_dim - rotary_dim) // 2
    rotated, passed = range(rotary_dim), range(rotary_dim, head_dim)
    one = (*rotated[:half], *passed[:rest], *rotated[half:], *passed[rest:])
    return tuple(head * head_dim + feature for head in range(heads) for feature in one)
