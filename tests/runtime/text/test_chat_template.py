"""Chat templates: the same characters as transformers, a pinned clock, and refusals in the template's own words."""

from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmruntime.errors import BundleError, InputError
from rmruntime.text.chat_template import ChatTemplate
from tiny_tokenizer import BOS, EOT, SPECIALS, TEMPLATES, build_tokenizer

PINNED = "2024-07-26"
PIECES = (
    *SPECIALS,
    "<|user|>",
    "\n",
    "\n\n",
    " ",
    "  ",
    "\t",
    "{{ x }}",
    "{% if %}",
    "ки",
    "é",
    "🙂",
    "\u2028",
    "+",
    "<&>",
)
CONTENT = st.lists(st.sampled_from(PIECES) | st.text(max_size=6), max_size=5).map("".join)
QUICK = settings(max_examples=40)


class PinnedClock(datetime):
    """What transformers' module takes for datetime."""

    @classmethod
    def now(cls, tz=None):
        return cls.fromisoformat(PINNED)


@st.composite
def conversations(draw):
    system = [{"role": "system", "content": draw(CONTENT)}] if draw(st.booleans()) else []
    roles = ["user", "assistant"] * draw(st.integers(1, 3))
    turns = [{"role": role, "content": draw(CONTENT)} for role in roles[: len(roles) - draw(st.integers(0, 1))]]
    return system + turns


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Renders with transformers, its clock pinned too."""
    transformers = pytest.importorskip("transformers")
    from transformers.utils import chat_template_utils

    patch = pytest.MonkeyPatch()
    patch.setattr(chat_template_utils, "datetime", PinnedClock)
    loaded = transformers.AutoTokenizer.from_pretrained(build_tokenizer(tmp_path_factory.mktemp("tiny")).folder)
    yield lambda source, messages, **more: loaded.apply_chat_template(
        messages, chat_template=source, tokenize=False, **more
    )
    patch.undo()


@pytest.fixture(scope="module")
def variables(tmp_path_factory):
    return build_tokenizer(tmp_path_factory.mktemp("variables")).variables


@pytest.mark.parametrize("name", TEMPLATES)
@QUICK
@given(messages=conversations(), prompt=st.booleans())
def test_renders_the_characters_transformers_renders(name, messages, prompt, reference, variables):
    ours = ChatTemplate(TEMPLATES[name], variables, PINNED).render(messages, add_generation_prompt=prompt)
    assert ours == reference(TEMPLATES[name], messages, add_generation_prompt=prompt)


FEATURES = {
    "loop controls": "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
    "generation tag": "{% for m in messages %}{% generation %}{% set x = 1 %}{{ m.content }}{% endgeneration %}{{ x }}"
    "{% endfor %}",
    "tojson": "{{ messages | tojson }}|{{ {'b': '<é>', 'a': 1} | tojson(indent=2, sort_keys=true) }}",
    "blocks": "  {% if true %}\n  x\n  {%- endif %}\n\ty\n",
    "tools and documents": "{{ tools is none }}{{ documents is none }}{{ tools is defined }}{{ absent is defined }}",
    "namespace and dict": "{% set n = namespace(a=1, self=2) %}{% set n.a = n.a + n.self %}{{ n.a }}"
    "{{ dict(a=1).a }}{{ dict([('b', 2)])['b'] }}{{ dict.fromkeys('ab', 0)['a'] }}",
    "clock": "{{ strftime_now('%Y-%m-%d %H:%M, %d %b %Y') }}",
    "undefined token": "[{{ cls_token }}]",
    "trailing newlines": "a\n\n",
    "macro": "{% macro say(m) %}{{ m.role | upper }}: {{ m['content'] }}{% endmacro %}{{ say(messages[0]) }}",
}


@pytest.mark.parametrize("source", FEATURES.values(), ids=FEATURES.keys())
def test_every_feature_of_the_environment(source, reference, variables):
    messages = [{"role": "user", "content": "<b>Hé\n"}, {"role": "assistant", "content": "'Hi'"}]
    assert ChatTemplate(source, variables, PINNED).render(messages) == reference(source, messages)


TURNS = [{"role": "user", "content": "a"}]
REFUSALS = {
    "raise_exception": ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
    "undefined": ("{{ messages[5].content }}", "no element 5"),
    "wrong types": ("{{ 1 + 'a' }}", "unsupported operand"),
    "division": ("{{ 1 / 0 }}", "division by zero"),
    "mutation": ("{{ messages.append(1) }}", "is unsafe"),
    "internals": ("{{ messages.__class__.__mro__ }}", "unsafe"),
    "stored internals": ("{% set n = namespace(_a=1) %}", "may not store"),
    "stored internals later": ("{% set n = namespace() %}{% set n._a = 1 %}", "may not store"),
    "huge range": ("{% for i in range(10 ** 9) %}{% endfor %}", "Range too big"),
}


@pytest.mark.parametrize(("source", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_refusals_keep_the_templates_words(source, message):
    with pytest.raises(InputError, match=f"the chat template refuses these messages: .*{message}"):
        ChatTemplate(source, {}, PINNED).render(TURNS)


def test_trap_template_reads_the_clock():
    clock = "{{ strftime_now('%d %b %Y') }}"
    assert ChatTemplate(clock, {}, PINNED).render(TURNS) == "26 Jul 2024"
    assert ChatTemplate(clock, {}, "2025-01-02").render(TURNS) == "02 Jan 2025"
    with pytest.raises(InputError, match="reads the clock, and the bundle pins no date"):
        ChatTemplate(clock, {}, None).render(TURNS)


def test_templates_and_dates_that_cannot_be_used():
    with pytest.raises(BundleError, match="does not compile"):
        ChatTemplate("{% for %}", {}, PINNED)
    with pytest.raises(BundleError, match="found 'July', expected an ISO date"):
        ChatTemplate("a", {}, "July")


def test_templates_are_compiled_once(variables):
    first, second = (ChatTemplate(TEMPLATES["llama3"], variables, PINNED) for _ in range(2))
    assert first._template is second._template


def test_rendering_leaves_the_messages_alone(variables):
    messages = [{"role": "user", "content": " a "}]
    text = ChatTemplate(TEMPLATES["llama3"], variables, PINNED).render(messages)
    assert messages == [{"role": "user", "content": " a "}]
    assert text == f"{BOS}<|start_header_id|>user<|end_header_id|>\n\na{EOT}"


def test_further_values(variables):
    template = ChatTemplate("{{ bos_token }}{{ messages[0].content }}|{{ a }}|{{ b }}", variables, PINNED)
    turns = [{"role": "user", "content": "Q"}]
    assert template.render(turns, values={"a": "1", "b": "{{ 2 }}"}) == f"{BOS}Q|1|{{{{ 2 }}}}"
    assert template.render(turns) == f"{BOS}Q||"
