"""Layouts: how a prompt and its answer become text for the template and the tokenizer. One file each.

A layout's module defines LAYOUT, a `Layout` of rmruntime.text.layouts.base. Nothing else names the module.
"""

from collections.abc import Mapping
from functools import cache

from rmruntime.bundle.manifest import Format
from rmruntime.errors import BundleError
from rmruntime.modules import by_name, discover_values
from rmruntime.text.layouts.base import Layout


def find_layout(form: Format) -> Layout:
    """The layout of `form`, checked against it; raises BundleError for an unknown one or a unit it cannot score.

    >>> find_layout(Format(layout="chat")).units
    ('sequence',)
    """
    known = _layouts()
    layout = known.get(form.layout)
    if layout is None:
        raise BundleError(
            f"format.layout: found {form.layout!r}, expected one of {', '.join(sorted(known))}; upgrade rmruntime"
        )
    if form.unit not in layout.units:
        raise BundleError(
            f"format.unit: found {form.unit!r}, but {form.layout} scores by {' or '.join(layout.units)}; "
            "export the bundle again"
        )
    layout.check(form)
    return layout


@cache
def _layouts() -> Mapping[str, Layout]:
    found = discover_values(__name__, "LAYOUT", Layout).items()
    return by_name(__name__, ((layout.name, module, layout) for module, layout in found))
