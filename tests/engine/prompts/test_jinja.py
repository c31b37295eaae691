"""What chat templates may do and what they can't; and in which form they get the messages' contents."""

from __future__ import annotations

from datetime import datetime

import pytest

from service.engine.prompts.jinja import Jinja, TemplateError

DATE = datetime(2021, 3, 4)


def jinja(source: str) -> Jinja:
    return Jinja(source, bos="<s>", eos="</s>")


@pytest.mark.parametrize(
    "source", ["{% if %}", "{{ x", "{% for %}", "{% nonsense %}", "{{ 1 | nonsense }}", "{% for a in b %}" * 40]
)
def test_a_template_that_does_not_compile(source: str) -> None:
    """A template that is not valid Jinja is an error when the model is loaded."""
    with pytest.raises(TemplateError, match="does not compile"):
        jinja(source)


def test_deep_nesting_does_not_compile() -> None:
    """A template that Jinja accepts and Python's compiler does not is such an error as well."""
    depth = 30
    source = "{% for a in messages %}" * depth + "{% endfor %}" * depth
    with pytest.raises(TemplateError, match="does not compile"):
        jinja(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[7].content }}",
        "{{ nothing.at.all }}",
        "{{ 1 / 0 }}",
        "{{ 'x' + 1 }}",
        "{{ {}['a'].b }}",
        "{{ messages[0].content.index('zzz') }}",
        "{{ 'x'.encode('nonsense') }}",
        "{{ range(10 ** 9) | list }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ messages | tojson(nonsense=[].x.y) }}",
        "{{ raise_exception() }}",
        "{{ '%d' % 'x' }}",
        "{{ '{a}'.format_map(1) }}",
        "{{ strftime_now(1) }}",
    ],
)
def test_a_template_that_fails(source: str) -> None:
    """Any failure while a template renders is a TemplateError and does not end the engine."""
    template = jinja(source)
    with pytest.raises(TemplateError, match="chat template"):
        template([{"role": "user", "content": "x"}], DATE)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ raise_exception.__globals__ }}",
        "{{ raise_exception.__globals__['__builtins__']['open']('/etc/passwd').read() }}",
        "{{ strftime_now.__globals__.os }}",
        "{{ messages.__class__.__base__ }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ self.__init__.__globals__ }}",
        "{{ '{0.__class__.__init__.__globals__}'.format(raise_exception) }}",
        "{{ messages.append('x') }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{{ messages | attr('__class__') | attr('__mro__') }}",
    ],
)
def test_sandbox(source: str) -> None:
    """A template reaches neither Python's internals nor can it change the messages."""
    messages = [{"role": "user", "content": "x"}]
    try:
        text = jinja(source)(messages, DATE)
    except TemplateError:
        text = ""
    assert not any(word in text for word in ("<class", "builtin", "root:", "module", "object at"))
    assert messages == [{"role": "user", "content": "x"}]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ messages | tojson }}", '[{"role": "user", "content": "<é>"}]'),
        ("{{ {'a': 1} | tojson(indent=1) }}", '{\n "a": 1\n}'),
        ("{{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }}", '{"a": 2, "b": 1}'),
        ("{{ {'b': 1, 'a': 2} | tojson(separators=(',', ':')) }}", '{"b":1,"a":2}'),
        ("{{ 'é' | tojson(ensure_ascii=true) }}", '"\\u00e9"'),
        ("{% for m in messages %}{% if true %}{% break %}{% endif %}x{% endfor %}y", "y"),
        ("{% set l = [] %}{% set _ = l.append(1) %}{{ l }}", "[1]"),
        ("{{ ('[1]' | from_json)[0] }}", "1"),
        ("{{ messages | map(attribute='role') | tojson }}", '["user"]'),
        ("{% generation %}x{% endgeneration %}y", "xy"),
        ("  {% if true %}\n  a\n  {% endif %}\nb", "  a\nb"),
        ("{{ strftime_now('%%') }}", "%"),
        ("{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}", "TrueTrueTrue"),
        ("{{ bos_token }}{{ eos_token }}", "<s></s>"),
    ],
)
def test_what_templates_may_use(source: str, expected: str) -> None:
    """They have the filters, tags and names that transformers provides to chat templates."""
    assert jinja(source)([{"role": "user", "content": "<é>"}], DATE) == expected


@pytest.mark.parametrize("test", ["tools is none", "tools is not defined or tools is none"])
def test_tools_are_none_where_there_are_none(test: str) -> None:
    """As transformers passes them; they are not even defined where a template then fails."""
    assert jinja("{{ " + test + " }}")([], DATE) == "True"
    assert jinja("{% for tool in tools %}x{% endfor %}{{ tools is defined }}")([], DATE) == "False"


def test_what_a_template_gets_is_a_copy() -> None:
    """It may change its lists, and the caller's stay as they are."""
    tools = [{"a": [1]}]
    template = jinja("{% set _ = tools[0].a.append(2) %}{{ tools[0].a }}")
    assert template.fill([], tools=tools) == "[1, 2]"
    assert tools == [{"a": [1]}]


def test_a_templates_variables() -> None:
    """Those that it reads and does not set."""
    assert jinja("{% set a = 1 %}{{ a }}{% if b %}{{ c.d }}{% endif %}").variables == {"b", "c"}


def test_the_date_is_the_requests() -> None:
    """The template's date is the given one."""
    assert jinja("{{ strftime_now('%d %b %Y') }}")([], DATE) == "04 Mar 2021"


HEAD = "{%- for m in messages -%}{{- '[' + m.role + ':' -}}"
TAIL = "{{- ']' -}}{%- endfor -%}{%- if add_generation_prompt -%}{{- '[assistant:' -}}{%- endif -%}"
PARTS = "{%- for part in m.content -%}{%- if part.type == 'text' -%}{{- part.text -}}{%- endif -%}{%- endfor -%}"
TEXT = "{{- m.content -}}"
STRICT = "{%- if m.role == 'system' -%}{{- raise_exception('no system') -}}{%- endif -%}"


@pytest.mark.parametrize(
    ("middle", "roles"),
    [
        (TEXT, ""),
        (PARTS, "system user assistant"),
        ("{{- m.content[0].text -}}", "system user assistant"),
        ("{{- m['content'][0]['text'] | trim -}}", "system user assistant"),
        ("{%- if m.content is string -%}" + TEXT + "{%- else -%}" + PARTS + "{%- endif -%}", ""),
        ("{%- if m.role == 'assistant' -%}" + TEXT + "{%- else -%}" + PARTS + "{%- endif -%}", "system user"),
        ("{%- if m.role == 'system' -%}" + PARTS + "{%- else -%}" + TEXT + "{%- endif -%}", "system"),
        (STRICT + PARTS, "user assistant"),
        ("{%- if m.role != 'user' -%}{{- raise_exception('no') -}}{%- endif -%}" + PARTS, "user"),
        ("{%- if m.role == 'user' -%}" + TEXT + "{%- endif -%}", ""),  # it renders no other role, in any form
        ("{%- if m.content is not string -%}{{- raise_exception('parts') -}}{%- endif -%}" + TEXT, ""),
    ],
)
def test_no_content_is_lost(middle: str, roles: str) -> None:
    """A template that takes some roles' content only as a list of parts gets it in that form, and no other role's is a
    list."""
    template = jinja(HEAD + middle + TAIL)
    assert template._in_parts == frozenset(roles.split())
    for role in roles.split() or ["user"]:
        said = template([{"role": role, "content": "the 'fox'"}], DATE)
        assert said == f"[{role}:the 'fox'][assistant:"


def test_the_answers_header_is_optional() -> None:
    """The caller decides whether the header of the model's answer is added."""
    template = jinja(HEAD + TEXT + TAIL)
    assert template([{"role": "user", "content": "x"}], DATE, opens_answer=False) == "[user:x]"
