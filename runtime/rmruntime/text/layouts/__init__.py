"""Layouts: how a prompt and its answer become text for the template and the tokenizer. One file each.

A layout's module defines LAYOUT (its name in the manifest), UNITS (what it can score), `check` and `lay_out`, and where
it needs them `given`, `arrange` and `join`; rmruntime.text.layouts.base says what these do. Nothing else names the
module.
"""

from collections.abc import Mapping
from functools import cache
from types import ModuleType

from rmruntime.bundle.manifest import Format
from rmruntime.errors import BundleError
from rmruntime.modules import discover
from rmruntime.text.layouts.base import Layout, as_one_segment, keep_exchanges, keep_scores


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
    found = [_layout(module) for module in discover(__name__, ("LAYOUT", "UNITS", "check", "lay_out"))]
    return {layout.name: layout for layout in found}


def _layout(module: ModuleType) -> Layout:
    return Layout(
        name=module.LAYOUT,
        units=module.UNITS,
        check=module.check,
        lay_out=module.lay_out,
        given=getattr(module, "given", as_one_segment),
        arrange=getattr(module, "arrange", keep_exchanges),
        join=getattr(module, "join", keep_scores),
    )
