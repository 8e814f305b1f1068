"""Layouts: how a prompt and its answer become the turns the template renders. A file each.

A layout's module defines LAYOUT (its name in the manifest), UNITS (what it can score), `check` and `lay_out`;
nothing outside the file names it.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Protocol, cast

from rmruntime.answers import Exchange
from rmruntime.errors import BundleError
from rmruntime.manifest import Format, Per
from rmruntime.records import Message


class Layout(Protocol):
    """What a layout's module provides."""

    LAYOUT: str
    UNITS: tuple[Per, ...]

    def check(self, form: Format) -> None:
        """Raises BundleError for a format that lacks what the layout needs."""

    def lay_out(self, exchange: Exchange, form: Format) -> tuple[Message, ...]:
        """The turns to render; raises InputError for an exchange the layout has no place for."""


def find_layout(form: Format) -> Layout:
    """The layout of `form`, checked against it; raises BundleError for an unknown one or a unit it cannot score."""
    known = _layouts()
    layout = known.get(form.layout)
    if layout is None:
        raise BundleError(f"format.layout: found {form.layout!r}, expected one of {', '.join(sorted(known))}")
    if form.unit not in layout.UNITS:
        raise BundleError(f"format.unit: found {form.unit!r}, but {form.layout} scores by {' or '.join(layout.UNITS)}")
    layout.check(form)
    return layout


@cache
def _layouts() -> Mapping[str, Layout]:
    names = [f"{__name__}.{info.name}" for info in pkgutil.iter_modules(__path__)]
    modules = [cast(Layout, importlib.import_module(name)) for name in names]
    return {module.LAYOUT: module for module in modules}
