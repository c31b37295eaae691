"""Which grammars are passed on to llama.cpp's parser."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.sampling.gbnf import MAX_BYTES, check
from service.engine.sampling.gbnf_parser import MAX_DEPTH, MAX_RULES, GrammarError

JSON = r"""
root   ::= object  # llama.cpp's grammars/json.gbnf
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""


@pytest.mark.parametrize(
    "grammar",
    [
        JSON,
        'root ::= "a"',
        'root ::= ""',
        "root ::= .+\r\n",
        'root ::= "a" |\n "b"',
        'root ::= (\n "a"\n | "b" # or\n)?',
        "root ::= x*\nx ::= [ \\t]*",  # a rule that may be empty is repeated: llama.cpp takes it
        'root ::= "a" root | "b"',
        'root ::= | x "b" root\nx ::= "a"*',
        'root ::= ("a"|"b"|"c"|"d"|"e"|"f"){1,2000}',
        'root ::= "a"{ 2 , }',
        "root ::= [\\]\\-\\x41-\\u00e9\\U0001F600é]",
        'root ::= "a"\nroot ::= "b"',
        "root ::= " + "(" * MAX_DEPTH + '"a"' + ")" * MAX_DEPTH,
    ],
)
def test_grammars(grammar: str) -> None:
    """All of llama.cpp's syntax except its tokens."""
    check(grammar)


@pytest.mark.parametrize(
    ("grammar", "why"),
    [
        ("", "no rule 'root'"),
        ('x ::= "a"', "no rule 'root'"),
        ("root ::= y", "no rule 'y'"),
        ('root = "a"', "line 1, column 6: ::= is missing"),
        ('root ::= "a"\n\n ::= "b"', "line 3, column 2: a rule name"),
        ('root ::= "a" ; "b"', "is not allowed in a rule"),
        ('root ::= "a"\n| "b"', "line 2, column 1: a rule name"),
        ('root ::= "a"{\n2}', "the number of repetitions"),  # llama.cpp accepts it only within parentheses
        ('root ::= "a', "a literal"),
        ('root ::= "\\q"', "a literal"),
        ("root ::= [a-z", "a character class"),
        ("root ::= []", "a character class"),
        ('root ::= ("a"', "[)] is missing"),
        ("root ::= *", "nothing to repeat"),
        ('root ::= ""*', "nothing to repeat"),
        ('root ::= "a"{', "the number of repetitions"),
        ('root ::= "a"{2,1}', "less than the minimum"),
        ("root ::= <[5]>", "token references"),
        ('root ::= "a" !<think>', "token references"),
        ('root ::= "\0"', "NUL"),
    ],
)
def test_an_invalid_grammar(grammar: str, why: str) -> None:
    """The message has the position and the reason."""
    with pytest.raises(GrammarError, match=why):
        check(grammar)


@pytest.mark.parametrize(
    ("grammar", "why"),
    [
        ('root ::= "' + "a" * MAX_BYTES + '"', "bytes"),
        ("root ::= " + "(" * 20_000 + '"a"' + ")" * 20_000, "nested"),
        ('root ::= "a"{1000000}', "repetitions"),
        ('root ::= "a"{0,1000000}', "repetitions"),
        ('root ::= "a"{99999999999999999999}', "the number of repetitions"),
        ('root ::= "' + "a" * 60_000 + '"{2000}', "elements"),
        ("root ::= " + "[a-z]{2000} " * 60, "elements"),
        ("root ::= " + "x" + "{2000}" * 3 + '\nx ::= "a"', "elements"),
        ("\n".join(f"x{i} ::= [a]" for i in range(MAX_RULES + 1)), "rules"),
        ("root ::= a0\na64 ::= [x]\n" + "\n".join(f"a{i} ::= a{i + 1} | a{i + 1}" for i in range(64)), "ways"),
        ('root ::= root "a" | "b"', "is left-recursive"),
        ('root ::= x "b"\nx ::= y* root\ny ::= "a"', "is left-recursive"),
        ('root ::= x root "b" | "c"\nx ::= y y\ny ::= "" | "a"', "is left-recursive"),
    ],
)
def test_too_much_of_a_grammar(grammar: str, why: str) -> None:
    """A grammar that would overflow llama.cpp's stack, fill the memory or never end is refused by its size alone."""
    with pytest.raises(GrammarError, match=why):
        check(grammar)


PARTS = st.sampled_from(
    ["root", "x", " ", "\n", "::=", '"a"', "[a-z]", ".", "(", ")", "|", "*", "+", "?", "{2}", "#", "<"]
)


@given(st.lists(PARTS, max_size=30).map("".join) | st.text(max_size=30))
def test_any_text_is_a_grammar_or_none(text: str) -> None:
    """Nothing else is raised."""
    with suppress(GrammarError):
        check(text)


def chained(n: int) -> str:
    """Each rule is empty if the next one is, and all of them are at the root's beginning, repeatedly."""
    names = [f"r{i}" for i in range(n)]
    rules = [f"{name} ::= {after}" for name, after in zip(names, [*names[1:], '""'], strict=True)]
    return f"root ::= {' '.join(names * 8)}\n" + "\n".join(rules)


def nested(n: int) -> str:
    """Nested groups, each of which may be empty."""
    return "root ::= " + " ".join(["(" * 32 + '"a"?' + ")?" * 32] * n)


@pytest.mark.parametrize("grammar", [chained, nested])
def test_the_check_takes_time_linear_in_the_text(grammar: Callable[[int], str]) -> None:
    """Measured in calls: twice the text takes about twice as many."""

    def n_calls(text: str) -> int:
        n = 0

        def count(*_: object) -> None:
            nonlocal n
            n += 1

        sys.setprofile(count)
        try:
            with suppress(GrammarError):  # it may begin in too many ways, which is reported last
                check(text)
        finally:
            sys.setprofile(None)
        return n

    assert n_calls(grammar(80)) < 2.5 * n_calls(grammar(40))
