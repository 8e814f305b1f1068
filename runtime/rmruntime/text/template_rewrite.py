"""Rewrites a template's syntax tree so that what it does is counted: loops, macros, growing values, long comparisons.

What is added are filters whose names no template can spell.
"""

from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import nodes
from jinja2.visitor import NodeTransformer

from rmruntime.text.template_budget import compared, counted, sized, spend, text_size, weighed

_LEAVES = 8  # values that may be added up before their sum's size is looked at
_COUNTED, _SPEND, _SIZED, _WEIGHED, _COMPARED, _JOINED = (
    f"{name} of rmruntime" for name in ("loop", "cost", "size", "see", "compare", "join")
)
_LOOKING_THROUGH = ("in", "notin")
_HASHING_TESTS = ("in", "filter", "test")  # what they are asked of is looked up in a table


def _joined(values: tuple[Any, ...]) -> str:
    """`a ~ b`: the texts of the values, one after the other."""
    for value in values:
        text_size(value)
    return str(sized("".join(map(str, values))))


FILTERS: Mapping[str, Callable[..., Any]] = {
    _COUNTED: counted,
    _SPEND: spend,
    _SIZED: sized,
    _WEIGHED: weighed,
    _COMPARED: compared,
    _JOINED: _joined,
}


def rewrite(template: nodes.Template) -> nodes.Template:
    """The tree with counting in it; the tree given is changed."""
    rewritten: nodes.Template = _Rewriter().visit(template)
    return rewritten


class _Rewriter(NodeTransformer):
    def visit_For(self, node: nodes.For) -> nodes.Node:
        steps, characters = _cost(node)
        self.generic_visit(node)
        if node.recursive:  # its items come anew with every call of it
            node.body.insert(0, _spending(steps + characters, node))
        else:
            node.iter = _filtered(node.iter, _COUNTED, nodes.Const(steps), nodes.Const(characters))
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        return self._body(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        return self._body(node)

    def visit_Block(self, node: nodes.Block) -> nodes.Node:
        return self._body(node)

    def _body(self, node: Any) -> nodes.Node:
        cost = sum(_cost(node))
        self.generic_visit(node)
        node.body.insert(0, _spending(cost, node))
        return node  # type: ignore[no-any-return] # one of the three above

    def visit_Add(self, node: nodes.Add) -> nodes.Node:
        """The sum is looked at, not every step to it, unless it has very many."""
        leaves: list[nodes.Expr] = []
        _collect(node, leaves)
        if len(leaves) > _LEAVES:
            node.left, node.right = self.visit(node.left), self.visit(node.right)
        else:
            self._visit_leaves(node)
        return _filtered(node, _SIZED)

    def _visit_leaves(self, node: nodes.Add) -> None:
        for side in ("left", "right"):
            part = getattr(node, side)
            if isinstance(part, nodes.Add):
                self._visit_leaves(part)
            else:
                setattr(node, side, self.visit(part))

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        """What is printed is looked at when it is."""
        for child in node.nodes:
            if isinstance(child, nodes.Add) and _leaves(child) <= _LEAVES:
                self._visit_leaves(child)
        node.nodes = [
            child if isinstance(child, nodes.Add) and _leaves(child) <= _LEAVES else self.visit(child)
            for child in node.nodes
        ]
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(nodes.Tuple(node.nodes, "load").set_lineno(node.lineno), _JOINED)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        """Comparing two values takes no longer than going through either of them, and a search than its place."""
        self.generic_visit(node)
        sides = [node.expr, *(operand.expr for operand in node.ops)]
        short = any(_is_written_out(side) for side in sides)
        searches = any(operand.op in _LOOKING_THROUGH for operand in node.ops)
        if searches and not _is_written_out(node.expr):  # what is looked for in a table is hashed
            node.expr = _filtered(node.expr, _COMPARED)
        for operand in node.ops:
            if not _is_written_out(operand.expr) and (operand.op in _LOOKING_THROUGH or not short):
                operand.expr = _filtered(operand.expr, _COMPARED)
        return node

    def visit_Test(self, node: nodes.Test) -> nodes.Node:
        self.generic_visit(node)
        if node.args:  # of the others none looks through a value but upper and lower
            node.args = [
                argument if _is_written_out(argument) else _filtered(argument, _COMPARED) for argument in node.args
            ]
        if node.name in _HASHING_TESTS and not _is_written_out(node.node):
            node.node = _filtered(node.node, _COMPARED)
        elif node.name in ("upper", "lower"):
            node.node = _filtered(node.node, _WEIGHED)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            return _filtered(node, _WEIGHED)
        if not _is_written_out(node.arg):
            node.arg = _filtered(node.arg, _COMPARED)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:
        self.generic_visit(node)
        if not _is_written_out(node.key):
            node.key = _filtered(node.key, _COMPARED)
        return node


def _is_written_out(node: nodes.Node) -> bool:
    """Whether the template's own text says what this is, so that it is as short as that."""
    if isinstance(node, (nodes.List, nodes.Tuple)):
        return all(map(_is_written_out, node.items))
    if isinstance(node, nodes.Dict):
        return all(_is_written_out(pair.key) and _is_written_out(pair.value) for pair in node.items)
    return isinstance(node, (nodes.Const, nodes.TemplateData))


def _collect(node: nodes.Expr, leaves: list[nodes.Expr]) -> None:
    """What is added up and is no text of the template's own."""
    if isinstance(node, nodes.Add):
        _collect(node.left, leaves)
        _collect(node.right, leaves)
    elif not isinstance(node, nodes.Const):
        leaves.append(node)


def _leaves(node: nodes.Expr) -> int:
    found: list[nodes.Expr] = []
    _collect(node, found)
    return len(found)


def _cost(node: nodes.Node) -> tuple[int, int]:
    """Nodes below this one, and characters that they print of their own."""
    steps = characters = 0
    for child in node.find_all(nodes.Node):
        steps += 1
        if isinstance(child, nodes.TemplateData):
            characters += len(child.data)
    return steps, characters


def _spending(cost: int, node: nodes.Node) -> nodes.Node:
    return nodes.ExprStmt(_filtered(nodes.Const(cost), _SPEND)).set_lineno(node.lineno)


def _filtered(value: Any, name: str, *arguments: nodes.Expr) -> nodes.Filter:
    line = getattr(value, "lineno", 1) or 1
    for argument in (value, *arguments):
        argument.set_lineno(line)
    made = nodes.Filter(value, name, list(arguments), [], None, None)
    made.set_lineno(line)
    return made
