"""Chat templates render as their models expect, and one that runs away ends soon and small."""

from datetime import datetime
from itertools import count
from typing import Any

import pytest

from nodes.text.budget import STEPS_MAX
from nodes.text.template import ChatTemplate, TemplateProblem
from tests.nodes.text.tiny import TEMPLATE

MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "<b>Hi</b>"},
]
NOON = datetime(2026, 1, 2, 12, 0)


def rendered(source: str, messages: list[dict[str, Any]] = MESSAGES, **more: Any) -> str:
    specials = {"bos_token": "<s>", "eos_token": "</s>"}
    return ChatTemplate(source, specials, lambda: NOON, lambda: 0.0).render(messages, **more)


def test_a_conversation() -> None:
    text = "<s><|system|>\nBe kind.<|eot|>\n<|user|>\n<b>Hi</b><|eot|>\n"
    assert rendered(TEMPLATE) == text + "<|assistant|>\n"
    assert rendered(TEMPLATE, open_answer=False) == text


def test_the_last_message_may_stay_open() -> None:
    begun = [*MESSAGES, {"role": "assistant", "content": "Hello th "}]
    assert rendered(TEMPLATE, begun, continue_last=True).endswith("<|assistant|>\nHello th")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ strftime_now('%d %b %Y') }}", "02 Jan 2026"),
        ("{{ {'b': '<é>', 'a': [1, none]} | tojson }}", '{"b": "<é>", "a": [1, null]}'),
        ("{{ tools | tojson(indent=2) }}", '[\n  {\n    "name": "f"\n  }\n]'),
        ("{% for t in tools %}{{ t.name }}{% endfor %}{{ mood }}", "fgood"),
        (
            "{% set s = namespace(n=0) %}{% for m in messages %}{% set s.n = s.n + loop.index %}{% endfor %}{{ s.n }}",
            "3",
        ),
        ("{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f(1) ~ f('a') }}", "[1][a]"),
        ("{% generation %}x{% endgeneration %}", "x"),
        ("{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{{ m.role | upper }}{% endfor %}", "SYSTEM"),
        ("{{ messages | map(attribute='role') | join(', ') }}", "system, user"),
        ("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}", "1"),
        ("{{ (messages[0].content.split(' ')[-1] | trim).replace('.', '!') }}{{ missing }}", "kind!"),
        ("{{ messages[::-1][0].role }}{{ messages[0]['content'][:2] }}{{ 'a' * 3 }}{{ 7 // 2 }}", "userBeaaa3"),
        ("{% for key, value in messages[0].items() %}{{ key }}{% endfor %}", "rolecontent"),
        (
            "{%- if tools is not none and messages[0].role == 'system' %}\n  x\n{%- endif %}",
            "\n  x".replace("\n  ", "  "),
        ),
    ],
)
def test_what_templates_use(source: str, text: str) -> None:
    assert rendered(source, tools=[{"name": "f"}], arguments={"mood": "good"}) == text


def test_the_template_may_refuse() -> None:
    with pytest.raises(TemplateProblem, match=r"^no system$"):
        rendered("{{ raise_exception('no system') }}")


@pytest.mark.parametrize(
    "source", ["{{ 1 / 0 }}", "{{ a.b.c }}", "{% include 'x' %}", "{{ messages[0].content.__class__.x }}"]
)
def test_a_failing_template_is_a_problem(source: str) -> None:
    with pytest.raises(TemplateProblem, match="fails on these messages"):
        rendered(source)


@pytest.mark.parametrize(
    "source",
    ["{% for %}", "{{ 'a' | center(9) }}", "{% for a in b recursive %}{% endfor %}", "(" * 9 + "{{" + "(" * 9999],
)
def test_a_broken_template_is_refused_at_once(source: str) -> None:
    with pytest.raises(ValueError, match="cannot be compiled"):
        rendered(source)


NS = "{% set ns = namespace(x='a', l=[1]) %}{% for i in range(200) %}"
RUNAWAYS = [
    "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
    "{% for a in range(9999) %}{% for b in range(9999) %}" + "x" * 1000 + "{% endfor %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "{% macro f(n) %}" + "x" * 9999 + "{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(30) }}",
    "{{ 'x' * 10000000000 }}",
    "{{ ([1] * 100000000) | length }}",
    "{{ 9 ** 9 ** 9 }}",
    "{{ range(1000000000) | list | length }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '{:>1000000000}'.format(1) }}",
    "{{ 'a'.ljust(1000000000) }}",
    "{{ 'a' | indent(1000000000) }}",
    "{{ ('\n' * 100000) | indent(10000) }}",
    "{{ 1.5 | round(1000000000, 'ceil') }}",
    "{% set a = 'a' * 1000000 %}{{ a.replace('a', a) }}",
    "{% set a = 'a' * 1000000 %}{{ a | replace('a', a) }}",
    "{% set a = 'a' * 1000000 %}{{ a.join([a] * 1000) }}",
    "{% set a = 'a' * 1000000 %}{{ [a, a, a] | join(a) }}",
    "{{ (['a' * 100000] * 100) | map('replace', 'a', 'b' * 10000) | list | length }}",
    "{{ ([[1] * 1000] * 1000) | sum(start=[]) }}",
    NS + "{% set ns.x = ns.x + ns.x %}{% endfor %}",
    NS + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    NS + "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}",
    NS + "{% set ns.l = ns.l * 10 %}{% endfor %}{{ ns.l }}",
    NS + "{% set ns.l = ns.l + [ns.l] %}{% endfor %}{{ ns.l | tojson }}",
    NS + "{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}",
    NS + "{% set ns.l = {'a': ns.l, 'b': ns.l} %}{% endfor %}{{ ns.l }}",
    NS + "{% set ns.l = namespace(a=ns.l, b=ns.l) %}{% endfor %}{{ ns.l }}",
]


@pytest.mark.parametrize("source", RUNAWAYS, ids=range(len(RUNAWAYS)))
def test_a_runaway_template_ends_by_its_budget(source: str) -> None:
    """Without the clock: its hands do not move here. Nor is it the memory that ends it."""
    with pytest.raises(TemplateProblem) as caught:
        rendered(source)
    assert "MemoryError" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (
            "{% macro f() %}" + "x" * 9999 + "{% endmacro %}{% for i in range(999) %}{% set y = f() %}{% endfor %}",
            "text",
        ),
        ("{% for i in range(999) %}{% set y %}" + "x" * 9999 + "{% endset %}{% endfor %}", "text"),
        (NS + "{% set ns.l = [ns.l, ns.l] %}{% endfor %}", "builds"),
        (NS + "{% set ns.l = (ns.l, ns.l) %}{% endfor %}", "builds"),
        (NS + "{% set ns.l = {'a': ns.l, 'b': ns.l} %}{% endfor %}", "builds"),
        (NS + "{% set ns.l = ns.l + [ns.l] %}{% endfor %}", "builds"),
        (NS + "{% set ns.l = dict(a=ns.l, b=ns.l) %}{% endfor %}", "builds"),
    ],
)
def test_it_ends_where_too_much_is_made_not_where_it_is_shown(source: str, why: str) -> None:
    with pytest.raises(TemplateProblem, match=why):
        rendered(source)


def test_behind_the_budget_there_is_a_clock() -> None:
    ticks = count()
    template = ChatTemplate("{% for i in range(9999) %}{% endfor %}", {}, lambda: NOON, lambda: next(ticks) * 0.01)
    with pytest.raises(TemplateProblem, match="too long"):
        template.render(MESSAGES)


def test_a_long_conversation_has_a_budget_to_match() -> None:
    source = "{% for m in messages %}{% for n in range(20) %}{{ m.role }}{% endfor %}{{ m.content | trim }}{% endfor %}"
    messages = [{"role": "user", "content": "word " * 50}] * 9_000
    assert STEPS_MAX < 9_000 * 40 and rendered(source, messages).count("user") == 9_000 * 20


def test_a_long_text_has_a_budget_to_match() -> None:
    text = "word " * 1_000_000
    assert text.strip() in rendered(TEMPLATE, [{"role": "user", "content": text.strip()}])


def test_arguments_do_not_replace_what_is_ours() -> None:
    arguments = {"the budget": 1, "messages": "x", "bos_token": "?"}
    assert rendered("{{ messages | length }}{{ bos_token }}", arguments=arguments) == "2?"
