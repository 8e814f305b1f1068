"""A hostile template is a BundleError or an InputError, within a budget that no clock decides."""

import random

import pytest

from rmruntime.errors import BundleError, InputError
from rmruntime.text import template_budget, template_sandbox
from rmruntime.text.chat_template import SOURCE_LIMIT, ChatTemplate

TURNS = [{"role": "user", "content": "a heron"}, {"role": "assistant", "content": "by the weir"}]

NOT_COMPILED = {
    "syntax": "{% for %}",
    "nested blocks, a SyntaxError of Python": "{% for a in b %}" * 30 + "{% endfor %}" * 30,
    "nested parentheses": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "nested lists": "{{ " + "[" * 300 + "]" * 300 + " }}",
    "unary operators": "{{ " + "-" * 5000 + "1 }}",
    "chance": "{{ messages | random }}",
    "unknown filter": "{{ 1 | nothing }}",
    "length": "x" * (SOURCE_LIMIT + 1),
}

REFUSED = {
    "cycler without items": "{{ cycler() }}",
    "cycler, printed": "{{ cycler('a', 'b') }}",
    "lipsum": "{{ lipsum() }}",
    "chance, chosen late": "{{ messages | map('random') | list }}",
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "recursion that branches": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(40) }}",  # noqa: E501
    "recursion of a block": "{% block a %}{{ self.a() }}{% endblock %}",
    "recursion of a loop": "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "recursion of a wide loop": "{% for x in range(99) recursive %}{% if loop.depth < 9 %}{{ loop(range(99)) }}{% endif %}"  # noqa: E501
    "{% endfor %}",
    "a lone surrogate": "{{ '\\ud800' }}",
    "a lone surrogate by decoding": "{{ ('a'.encode() ~ '') }}",
    "endless loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "endless loops in a condition": "{% for a in range(99999) if range(99999) | select('eq', -1) | list %}{% endfor %}",
    "much output": "{% for a in range(99999) %}" + "x" * 99999 + "{% endfor %}",
    "much output in a macro": "{% macro m() %}{% for a in range(99999) %}"
    + "x" * 99999
    + "{% endfor %}{% endmacro %}{% set a = m() %}",
    "much output of a value": "{% set x = 'x' * 999999 %}{% for a in range(99999) %}{{ x }}{% endfor %}",
    "much output in a set block": "{% set x = 'x' * 999999 %}{% set y %}{% for a in range(99999) %}{{ x }}{% endfor %}"
    "{% endset %}",
    "a long text": "{{ 'x' * 10 ** 10 }}",
    "a long text, stored": "{% set x = 'x' * 10000000000 %}",
    "a long list": "{% set x = [1] * 10000000000 %}",
    "a large power": "{{ 9 ** (9 ** 9) }}",
    "a large product": "{% set n = namespace(a=9) %}{% for i in range(99) %}{% set n.a = n.a * n.a %}{% endfor %}",
    "a sum that doubles": "{% set n = namespace(a='x') %}{% for i in range(99) %}{% set n.a = n.a + n.a %}{% endfor %}",
    "a join that doubles": "{% set n = namespace(a='x') %}{% for i in range(99) %}{% set n.a = n.a ~ n.a %}{% endfor %}",  # noqa: E501
    "arguments that double": "{% macro m(a, n) %}{% if n %}{{ m(a + a, n - 1) }}{% endif %}{% endmacro %}{{ m('xy', 40) }}",  # noqa: E501
    "a list of itself, printed": "{% set n = namespace(a=[1]) %}{% for i in range(60) %}{% set n.a = [n.a, n.a] %}"
    "{% endfor %}{{ n.a }}",
    "a list of itself, as JSON": "{% set n = namespace(a=[1]) %}{% for i in range(60) %}{% set n.a = [n.a, n.a] %}"
    "{% endfor %}{{ n.a | tojson }}",
    "a list of itself, as text": "{% set n = namespace(a=[1]) %}{% for i in range(60) %}{% set n.a = [n.a, n.a] %}"
    "{% endfor %}{% set x = n.a | string %}",
    "padding by center": "{{ 'x' | center(10 ** 10) }}",
    "padding by format": "{{ '%9999999999d' % 1 }}",
    "padding by a format of many": "{{ ('%999999d' * 9999) % 1 }}",
    "padding by the filter format": "{{ '%9999999999d' | format(1) }}",
    "padding by format's star": "{{ '%*d' % (9999999999, 1) }}",
    "padding by str.format": "{{ '{:9999999999}'.format(1) }}",
    "padding by str.format, within": "{{ '{:{}}'.format(1, 9999999999) }}",
    "padding by ljust": "{{ 'x'.ljust(9999999999) }}",
    "padding by zfill": "{{ 'x'.zfill(9999999999) }}",
    "padding by expandtabs": "{{ '\t'.expandtabs(9999999999) }}",
    "padding by indent": "{{ 'x\ny' | indent(9999999999) }}",
    "padding by batch": "{{ [1] | batch(9999999999, 0) | list }}",
    "padding by slice": "{{ [1] | slice(9999999999, 0) | list }}",
    "padding by tojson": "{{ {'a': [1]} | tojson(indent=9999999999) }}",
    "replacing": "{{ ('x' * 99999) | replace('x', 'y' * 99999) }}",
    "replacing by the method": "{{ ('x' * 99999).replace('x', 'y' * 99999) }}",
    "joining": "{{ (['x'] * 99999) | join('y' * 99999) }}",
    "joining by the method": "{{ ('y' * 99999).join(['x'] * 99999) }}",
    "joining generators": "{{ range(99999) | map('string') | join('y' * 99999) }}",
    "joining attributes": "{{ ([{'a': 1}] * 99999) | join('y' * 99999, attribute='a') }}",
    "widths from texts": "{{ '{:{}}'.format('x', '1000000000') }}",
    "widths from lists": "{{ '{:{a[0]}}'.format('x', a=[1000000000]) }}",
    "methods of safe texts": "{{ ('x' | safe).ljust(1000000000) }}",
    "wrapping one long line": "{{ (' ' * 1000000) | wordwrap(5) }}",
    "looking for links": "{{ ('<a ' * 2000000) | urlize }}",
    "wrapping": "{{ ('x ' * 99999) | wordwrap(1, wrapstring='y' * 99999) }}",
    "rounding": "{{ 1 | round(9999999999, 'floor') }}",
    "bytes of a number": "{{ (1).to_bytes(9999999999) }}",
    "translating": "{{ 'xxx'.translate({120: 'y' * 999999}) }}",
    "looking through": "{% set x = 'x' * 4000000 %}{% for a in range(99999) %}{% if 'y' in x %}{% endif %}{% endfor %}",
    "counting through": "{% set x = 'x' * 4000000 %}{% for a in range(99999) %}{% if x.count('y') %}{% endif %}{% endfor %}",  # noqa: E501
    "comparing": "{% set x = 'x' * 4000000 %}{% set y = 'x' * 4000000 %}{% for a in range(99999) %}{% if x == y %}{% endif %}"  # noqa: E501
    "{% endfor %}",
    "slicing": "{% set x = 'x' * 4000000 %}{% for a in range(99999) %}{% set y = x[1:] %}{% endfor %}",
    "an address": "{{ raise_exception }}",
    "an address of a method": "{{ 'x'.upper }}",
    "an address in a list": "{{ [raise_exception] }}",
    "an address, joined": "{{ 'x' ~ raise_exception }}",
    "an address, filtered": "{{ raise_exception | string }}",
    "an address of a generator": "{{ messages | map('upper') }}",
    "including": "{% include 'x' %}",
    "division by zero": "{{ 1 % 0 }}",
    "zero to a negative power": "{{ 0 ** -1 }}",
    "a slice of none": "{{ [1] | slice(0) | list }}",
}


@pytest.mark.parametrize("source", NOT_COMPILED.values(), ids=NOT_COMPILED.keys())
def test_templates_that_do_not_compile(source):
    with pytest.raises(BundleError, match="chat template"):
        ChatTemplate(source, {}, None)


@pytest.mark.parametrize("source", REFUSED.values(), ids=REFUSED.keys())
def test_templates_that_cost_too_much_or_leave_scores_to_chance(source, monkeypatch):
    monkeypatch.setattr(template_budget, "STEPS", 200_000)  # as with all of them, and sooner
    template = ChatTemplate(source, {}, None)
    with pytest.raises(InputError):
        template.render(TURNS)


def test_the_budget_is_the_same_wherever_it_is_spent(monkeypatch):
    """A template that is just within the steps renders, whatever else the process does; a step less and it does not."""
    source = "{% for a in range(1000) %}{% if a %}{% endif %}{% endfor %}"
    used = []
    real = template_budget.Budget

    class Watched(real):
        def __init__(self, given, turns):
            super().__init__(given, turns)
            used.append(self)

    monkeypatch.setattr(template_budget, "Budget", Watched)
    for _ in range(3):
        ChatTemplate(source, {}, None).render(TURNS)
    spent = {budget.most - budget.steps for budget in used}
    assert len(spent) == 1
    monkeypatch.setattr(template_budget, "STEPS", template_budget.STEPS - used[0].steps - 1)
    with pytest.raises(InputError, match=r"more than [\d,]+ steps"):
        ChatTemplate(source, {}, None).render(TURNS)


def test_long_conversations_are_far_within_the_budget():
    loops = "{% for m in messages %}{% for n in messages %}{% if n.role == m.role %}{% endif %}{% endfor %}" + (
        "{{ m.role + ': ' + m.content | trim ~ '\n' }}{% endfor %}"
    )
    long = [{"role": "user", "content": "x" * 20_000}] * 400
    assert len(ChatTemplate(loops, {}, None).render(long)) == 400 * 20_007


def test_a_failed_rendering_leaves_the_next_its_whole_budget():
    template = ChatTemplate(
        "{% for a in range(messages | length) %}{{ 'x' * 10 ** messages[0].content | int }}{% endfor %}", {}, None
    )
    for size, fits in ((9, False), (2, True), (9, False), (2, True)):
        messages = [{"role": "user", "content": str(size)}]
        if fits:
            assert template.render(messages) == "x" * 100
        else:
            with pytest.raises(InputError):
                template.render(messages)


def test_nothing_is_left_to_chance():
    random.seed(1)
    state = random.getstate()
    ChatTemplate("{% if false %}{{ messages | random }}{% endif %}{{ messages | length }}", {}, None).render(TURNS)
    assert random.getstate() == state


def test_ctrl_c_passes(monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    template = ChatTemplate("{{ messages | length }}", {}, None)
    monkeypatch.setattr(template._template, "root_render_func", interrupted)
    with pytest.raises(KeyboardInterrupt):
        template.render(TURNS)


_TWICE = (
    "{% set n = namespace(a=(1,), b=(1,)) %}{% for i in range(40) %}"
    "{% set n.a = (n.a, n.a) %}{% set n.b = (n.b, n.b) %}{% endfor %}"
)
_DEEP = (
    "{% set n = namespace(a=(1,), b=(1,)) %}{% for i in range(300) %}"
    "{% set n.a = (n.a, 2) %}{% set n.b = (n.b, 2) %}{% endfor %}"
)
COMPARING = (
    "n.a == n.b",
    "n.a < n.b",
    "n.a == (n.b[0], n.b[1])",
    "n.a in [n.b]",
    "n.a in {'x': 1}",
    "n.a is eq(n.b)",
    "[n.a, n.b] | unique | list",
    "[n.a, n.b] | sort",
    "[n.a, n.b] | max",
    "[n.a] | select('equalto', n.b) | list",
    "[{'k': n.a}, {'k': n.b}] | map(attribute='k') | unique | list",
    "[n.a].index(n.b)",
    "[n.a].count(n.b)",
    "{n.a: 1}",
    "{'x': 1}[n.a]",
    "{'x': 1}.get(n.a)",
    "dict([(n.a, 1)])",
    "namespace([(n.a, 1)])",
    "raise_exception(n.a)",
)


@pytest.mark.parametrize("given", [_TWICE, _DEEP], ids=["held many times over", "deep"])
@pytest.mark.parametrize("comparison", COMPARING)
def test_comparing_and_hashing_lists_takes_steps(comparison, given, monkeypatch):
    monkeypatch.setattr(template_budget, "STEPS", 300_000)
    with pytest.raises(InputError, match=r"more than .* steps|nested more than|unhashable|no filter"):
        ChatTemplate(f"{given}{{{{ {comparison} }}}}", {}, None).render(TURNS)


OTHERS = {
    "numbers": ("{{ 2 ** 10 }} {{ 7 * 3 }} {{ 7 % 3 }} {{ 7 // 2 }} {{ 1 + 2 + 3 }}", "1024 21 1 3 6"),
    "texts": ("{{ '-' * 3 }}{{ '%5.2f' % 1 }}{{ '{:>4}'.format('a') }}{{ 'a'.ljust(3) }}|", "--- 1.00   aa  |"),
    "lists": ("{{ ([1] + [2]) * 2 }}{{ [1, 2] | join('-') }}{{ [3, 1] | sort }}", "[1, 2, 1, 2]1-2[1, 3]"),
    "loops": (
        "{% for a in [1, 2, 3] %}{{ loop.index }}/{{ loop.length }}{{ loop.last }}{% endfor %}",
        "1/3False2/3False3/3True",
    ),
    "recursive loops": (
        "{% for a in [[1, [2]]] recursive %}{% if a is iterable %}({{ loop(a) }}){% else %}{{ a }}{% endif %}{% endfor %}",  # noqa: E501
        "(1(2))",
    ),
    "macros": ("{% macro m(n) %}{{ n }}{% if n %}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(3) }}", "3210"),
    "cycler": ("{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}", "aba"),
    "namespace": ("{% set n = namespace(a='x') %}{% set n.a = n.a + 'y' %}{{ n.a }}", "xy"),
    "joining generators": ("{{ messages | map(attribute='role') | join(', ') }}", "user, assistant"),
    "joining generators by the method": ("{{ ', '.join(messages | map(attribute='role')) }}", "user, assistant"),
    "sorting generators": ("{{ messages | map(attribute='role') | sort | join }}", "assistantuser"),
    "tests": (
        "{{ 'a' in 'abc' }}{{ 'a' is in ['a'] }}{{ 'A' is upper }}{{ messages[0] is mapping }}",
        "TrueTrueTrueTrue",
    ),
    "printed containers": (
        "{{ {'a': [1, none]} }}{{ (1, 'b') }}{{ {'a': 1}.keys() | list }}",
        "{'a': [1, None]}(1, 'b')['a']",
    ),
    "else of a loop": ("{% for a in [] %}{% else %}none{% endfor %}", "none"),
    "methods within loops": (
        "{% for m in messages %}{{ ','.join(['a', m.role]) }}{{ 'a\tb'.expandtabs(2) }}{% endfor %}",
        "a,usera ba,assistanta b",
    ),
    "items of tables that have methods of that name": ("{{ {'items': 1}['items'] }}{{ {'a': 1}.get('a') }}", "11"),
    "undefined": ("[{{ nothing }}{% for a in nothing %}x{% endfor %}]", "[]"),
}


@pytest.mark.parametrize(("source", "expected"), OTHERS.values(), ids=OTHERS.keys())
def test_what_templates_do_is_as_it_was(source, expected):
    assert ChatTemplate(source, {}, None).render(TURNS) == expected


METHODS = (
    "m.content.strip()",
    "m.content.split(' ')",
    "m.content.split(' ', 1)",
    "m.content.split(' ', maxsplit=1)",
    "m.content.startswith('a' * 70)",
    "m.content.startswith(('a', 'b'))",
    "m.content.replace('a', 'b')",
    "(m.content * 999).count('e')",
    "m.role.upper()",
)


@pytest.mark.parametrize("call", METHODS)
def test_the_short_way_of_a_call_costs_what_the_long_one_does(call, monkeypatch):
    """Methods of short texts, which are nearly all that templates call, are looked at in less time."""
    found = []
    real = template_budget.Budget

    class Watched(real):
        def __init__(self, given, turns):
            super().__init__(given, turns)
            found.append(self)

    monkeypatch.setattr(template_budget, "Budget", Watched)
    source = f"{{% for m in messages %}}{{{{ {call} }}}}{{% endfor %}}"
    texts = [ChatTemplate(source, {}, None).render(TURNS)]
    monkeypatch.setattr(template_sandbox, "_is_plain_call", lambda method, args, named: False)
    texts.append(ChatTemplate(source, {}, None).render(TURNS))
    short, long = found
    assert texts[0] == texts[1] and (short.steps, short.output) == (long.steps, long.output)


def test_an_attribute_that_is_safe_of_one_type_is_not_of_another():
    """Answers are kept by type and name."""
    source = "{% set n = namespace(append='fine') %}{{ n.append }}{% if GO %}{{ messages.append(1) }}{% endif %}"
    for _ in range(2):
        template = ChatTemplate(source, {}, None)
        assert template.render(TURNS) == "fine"
        with pytest.raises(InputError, match="'append' of 'list' object is unsafe"):
            template.render(TURNS, values={"GO": "now"})
        assert template.render(TURNS) == "fine"


@pytest.mark.parametrize("attribute", ["__class__", "__init__", "update", "pop", "mro"])
def test_internal_and_changing_attributes_of_messages_stay_out_of_reach(attribute):
    source = f"{{% for m in messages %}}[{{{{ m.{attribute} }}}}{{{{ m['{attribute}'] }}}}]{{% endfor %}}"
    assert ChatTemplate(source, {}, None).render(TURNS) == "[][]"
