"""Finds the route of a request: by its path and method, then, where several protocols share these, by its body."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rmruntime.errors import ModuleError
from rmruntime.serve.problems import Refused
from rmruntime.serve.protocols.base import Protocol, Route

_PLACE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Target:
    """A route with its protocol, which makes the answer's errors."""

    protocol: Protocol
    route: Route


@dataclass(frozen=True, kw_only=True)
class Match:
    """The routes of one path and method, and the parts of the path that they name. There is at least one."""

    targets: Sequence[Target]
    places: Mapping[str, str]

    @property
    def first(self) -> Target:
        """The one that answers for faults which are found before the body is read: the one that takes the rest."""
        return next((target for target in self.targets if target.route.accepts is None), self.targets[0])

    def accepting(self, data: Any) -> Target:
        """The one that takes this parsed body. Raises Refused ("malformed") where none does."""
        rest: Target | None = None
        for target in self.targets:
            if target.route.accepts is None:
                rest = target
            elif target.route.accepts(data):
                return target
        if rest is None:
            names = ", ".join(target.protocol.name for target in self.targets)
            raise Refused("malformed", f"found a body without the fields of any protocol of this path: {names}")
        return rest


class Router:
    """The routes of all protocols. Raises ModuleError for two that could both be meant."""

    def __init__(self, protocols: Iterable[Protocol]) -> None:
        self._exact: dict[str, dict[str, list[Target]]] = {}
        self._patterns: dict[str, tuple[re.Pattern[str], dict[str, list[Target]]]] = {}
        for protocol in protocols:
            for route in protocol.routes:
                for method in route.methods.split():
                    self._add(method, Target(protocol, route))
        for path, methods in self._all():
            for method, targets in methods.items():
                _check(f"{method} {path}", targets)

    def find(self, method: str, path: str) -> Match:
        """The routes of a path. Raises Refused: "not_found", or "wrong_method" where the path has others."""
        methods, places = self._methods(path)
        if methods is None:
            raise Refused("not_found", f"found no route {path[:200]}; docs/serving.md lists those there are")
        targets = methods.get("GET" if method == "HEAD" else method)
        if targets is None:
            raise Refused("wrong_method", f"{path[:200]} takes {', '.join(sorted(methods))}, found {method[:20]}")
        return Match(targets=targets, places=places)

    def routes(self) -> list[tuple[str, str, str]]:
        """Method, path and protocol of every route, sorted by path."""
        found = [
            (method, path, target.protocol.name)
            for path, methods in self._all()
            for method, targets in methods.items()
            for target in targets
        ]
        return sorted(found, key=lambda row: (row[1], row[0], row[2]))

    def _add(self, method: str, target: Target) -> None:
        path = target.route.path
        if _PLACE.search(path):
            pattern = re.compile(_PLACE.sub(r"(?P<\1>[^/]+)", path))
            methods = self._patterns.setdefault(path, (pattern, {}))[1]
        else:
            methods = self._exact.setdefault(path, {})
        methods.setdefault(method, []).append(target)

    def _all(self) -> list[tuple[str, dict[str, list[Target]]]]:
        return [*self._exact.items(), *((path, methods) for path, (_, methods) in self._patterns.items())]

    def _methods(self, path: str) -> tuple[dict[str, list[Target]] | None, Mapping[str, str]]:
        if path in self._exact:
            return self._exact[path], {}
        for pattern, methods in self._patterns.values():
            if found := pattern.fullmatch(path):
                return methods, found.groupdict()
        return None, {}


def _check(where: str, targets: Sequence[Target]) -> None:
    rest = [target.protocol.name for target in targets if target.route.accepts is None]
    if len(rest) > 1:
        raise ModuleError(
            f"{where}: found routes of the protocols {' and '.join(rest)}, expected `accepts` on all of them but one; "
            "tell them apart by the fields of the body"
        )
    kinds = {target.route.body for target in targets}
    if len(targets) > 1 and kinds != {"json"}:
        raise ModuleError(
            f"{where}: found several protocols, one of which reads no JSON; only JSON bodies are told apart"
        )
