"""Hostile templates are stopped soon with one line, and what honest templates do works."""

# ruff: noqa: E501  # tables, one case a line

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.config.errors import DataError
from coterie.text import Message, render, template_sandbox

HOSTILE = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "filtered loop": "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
    "huge range": "{{ range(10**9)|list }}",
    "constant text": "{{ 'a' * 2000000000 }}",
    "constant text, other side": "{{ 2000000000 * 'a' }}",
    "list": "{{ [1] * 2000000000 }}",
    "long numbers": "{{ [2 ** 4000] * 700000 }}",
    "power": "{{ 9 ** (9 ** 9) }}",
    "product": "{% set ns = namespace(x=3) %}{% for i in range(90) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "doubling by +": "{% set ns = namespace(x='a') %}{% for i in range(90) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "doubling by ~": "{% set ns = namespace(x='a') %}{% for i in range(90) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "nested lists": "{% set ns = namespace(x=[1]) %}{% for i in range(90) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "nested dicts": "{% set ns = namespace(x={}) %}{% for i in range(90) %}{% set ns.x = dict(a=ns.x, b=ns.x) %}{% endfor %}{{ ns.x|tojson }}",
    "nested views": "{% set ns = namespace(x={'a': 1}) %}{% for i in range(60) %}{% set ns.x = {'a': ns.x.items(), 'b': ns.x.items()} %}{% endfor %}{{ ns.x }}",
    "namespaces": "{% set a = namespace() %}{% set b = namespace() %}{% set a.x = [b, b] %}",
    "width of %": "{{ '%2000000000d' % 1 }}",
    "starred width": "{{ '%*d' % (2000000000, 1) }}",
    "format filter": "{{ '%2000000000d'|format(1) }}",
    "str.format": "{{ '{:2000000000}'.format(1) }}",
    "str.format, nested": "{{ '{:{w}}'.format(1, w=2000000000) }}",
    "str.format_map": "{{ '{a:2000000000}'.format_map({'a': 1}) }}",
    "center": "{{ 'a'.center(2000000000) }}",
    "center filter": "{{ 'a'|center(2000000000) }}",
    "center through map": "{{ ['a']|map('center', 2000000000)|list }}",
    "ljust": "{{ 'a'.ljust(2000000000) }}",
    "zfill": "{{ 'a'.zfill(2000000000) }}",
    "expandtabs": "{{ ('\\t' * 9999).expandtabs(2000000000) }}",
    "replace": "{% set x = 'a' * 1000000 %}{{ x.replace('a', x) }}",
    "replace filter": "{% set x = 'a' * 1000000 %}{{ x|replace('a', x) }}",
    "join": "{% set x = 'a' * 1000000 %}{{ x.join(x) }}",
    "join filter": "{% set x = 'a' * 1000000 %}{{ range(9999)|join(x) }}",
    "indent": "{{ 'a'|indent(2000000000, true) }}",
    "tojson indent": "{{ [1]|tojson(indent=2000000000) }}",
    "slice": "{{ [1]|slice(2000000000)|list }}",
    "batch": "{{ [1]|batch(2000000000, 0)|list }}",
    "bytes": "{{ (1).to_bytes(2000000000, 'big') }}",
    "much output": "{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}",
    "much literal output": "{% for i in range(99999) %}" + "a" * 9999 + "{% endfor %}",
    "literal in a macro": "{% macro m() %}{% for i in range(99999) %}" + "a" * 9999 + "{% endfor %}{% endmacro %}{% set x = m() %}",
    "literal in a set": "{% set x %}{% for i in range(99999) %}" + "a" * 9999 + "{% endfor %}{% endset %}",
    "many long lists": "{% for i in range(99999) %}{% set x = range(99999)|list %}{% endfor %}",
    "lazy filters": "{{ range(99999)|map('string')|map('center', 900)|join }}",
    "tests": "{% set x = 'a' * 4000000 %}{% for i in range(9999) %}{{ ['b']|select('in', x)|list }}{% endfor %}",
    "recursive macro": "{% macro m(n) %}{{ m(n + 1) }}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
    "recursive loop": "{% for a in [[1]] recursive %}{{ loop([[1], [1]]) }}{% endfor %}",
    "deep source": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "deep blocks": "{% if 1 %}" * 300 + "{% endif %}" * 300,
    "long source": "a" * 1_000_000,
    "lorem": "{{ lipsum(n=100000000) }}",
    "strftime": "{{ strftime_now('%1000000000d') }}",
    "class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "attr filter": "{{ ''|attr('__class__')|attr('__mro__')|attr('a') + 1 }}",
    "format attribute": "{{ '{0.__class__.__mro__}'.format('') }}",
    "function globals": "{{ raise_exception.__globals__['os'] }}",
    "undefined's class": "{{ nothing.__class__.__init__.__globals__ }}",
    "change the data": "{{ messages.append(1) }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}",
    "long complaint": "{{ raise_exception('a' * 1000000) }}",
}  # fmt: skip


# These work until the limit; a tenth of it shows as well that a step of theirs takes no longer than it counts.
UNTIL_THE_LIMIT = {"filtered loop", "many long lists", "lazy filters", "recursive macro"}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_templates_stop_soon_with_one_line(name, monkeypatch):
    share = 0.1 if name in UNTIL_THE_LIMIT else 1.0
    monkeypatch.setattr(template_sandbox, "MAX_WORK", int(share * template_sandbox.MAX_WORK))
    started = time.process_time()
    with pytest.raises(DataError, match=r"^chat template: ") as caught:
        render([Message("user", "Hello")], HOSTILE[name])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert time.process_time() - started < 12 * share


def test_the_limits_hold_in_any_thread():
    failures = []

    def work() -> None:
        try:
            render([Message("user", "Hello")], HOSTILE["nested loops"])
        except DataError as error:
            failures.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failures) == 2 and all("runs too long" in failure for failure in failures)


HONEST = [
    ("{{ messages[0].content | trim }}{{ ' a'.strip() ~ 1 ~ none }}", "Helloa1None"),
    ("{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ loop.last }}{% endfor %}", "1/1True"),
    ("{% for i in range(5) if i is odd %}{{ loop.index0 }}{{ i }},{% endfor %}", "01,13,"),
    ("{% for i in [1, 2, 3] %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "13"),
    ("{% macro m(x, y=2) %}<{{ x }}{{ y }}>{% endmacro %}{{ m(1) }}{{ m(1, y=[3]) }}", "<12><1[3]>"),
    ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "1"),
    ("{% generation %}{{ 'a' }}{% endgeneration %}", "a"),
    ("{{ {'b': 'é<', 'a': [1, true]} | tojson(indent=1) }}", '{\n "b": "é<",\n "a": [\n  1,\n  true\n ]\n}'),
    ("{{ 'a,b'.split(',')|join('-') }}{{ ('%s:%03d' % ('x', 7)) }}{{ '{}-{a}'.format(1, a=2) }}", "a-bx:0071-2"),
    ("{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list }}", "['Hello']"),
    ("{{ [1, 2][::-1] }}{{ 'abc'[1:] }}{{ (1, 2)|sum }}{{ 7 % 4 }}{{ 2 ** 3 }}{{ 'ab' * 2 }}", "[2, 1]bc338abab"),
    ("{% set x %}a{{ 1 }}{% endset %}{{ x|replace('a', 'b')|upper }}{{ x|indent(2, true) }}", "B1  a1"),
    ("{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}{{ messages[0].get('x', 'no') }}", "a1no"),
]  # fmt: skip


@pytest.mark.parametrize(("template", "text"), HONEST)
def test_honest_templates_work_as_in_transformers(template, text):
    transformers = pytest.importorskip("transformers.utils.chat_template_utils")
    messages = [{"role": "user", "content": "Hello"}]
    theirs, _ = transformers.render_jinja_template([messages], chat_template=template)
    assert render([Message("user", "Hello")], template) == theirs[0] == text


def test_a_long_conversation_is_within_the_limits():
    words = "word " * 400
    turns = [Message("user" if n % 2 == 0 else "assistant", words) for n in range(1000)]
    loop = "{% for m in messages %}{{ '<' + m.role + '>' + m.content }}{% for n in [1, 2] %}{{ n }}{% endfor %}{% endfor %}"
    assert len(render(turns, loop)) > 2_000_000


part = st.sampled_from(
    "{% for a in x %} {% endfor %} {% if a %} {% endif %} {{ a }} {% set x = [x, x] %} {% set x = x * 99 %} {{ x|tojson }} "
    "{% macro x() %} {% endmacro %} {{ x() }} {{ x ~ x }} {{ '%s' % x }} {{ x.center(a) }} {{ messages }} {{ x|join(x) }} {{ self }} {% set a = 9**9 %}"
    .replace("} {", "}\0{").split("\0")
)  # fmt: skip


@given(parts=st.lists(part, max_size=12))
@settings(max_examples=150, deadline=None)
def test_any_template_gives_text_or_one_line(parts):
    try:
        assert len(render([Message("user", "Hello")], "{% set x = 'ab' %}" + "".join(parts))) <= 8_000_000
    except DataError as error:
        assert "\n" not in str(error)
