"""structures.py: what is compiled, what is refused with which words, and what is kept."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import pytest

from service.engine.llama.model import LlamaError, Model
from service.engine.sampling.argmax import Argmax
from service.engine.sampling.structured import StructureError
from service.engine.sampling.structures import MOST_KEPT, Structures
from service.protocol.structure import Structure, StructureKind


@pytest.fixture
def structures(bpe: Model) -> Iterator[Structures]:
    made = Structures(bpe)
    yield made
    made.close()
    made.close()


def form(kind: StructureKind, text: str) -> Structure:
    return Structure(kind, text, "theirs")


REFUSED: list[tuple[StructureKind, str, str]] = [
    ("json", "{", "not valid JSON"),
    ("json", "[]", "not valid JSON"),
    ("json", '{"items":' * 2000 + "{}" + "}" * 2000, "too deep"),
    ("json", '{"items":' * 200 + "{}" + "}" * 200, "too deep"),
    ("json", '{"not":{}}', "'not' can't be enforced"),
    ("json", '{"type":"any"}', "any"),
    ("json", '{"$ref":"#/nowhere"}', r"'\$ref'"),
    ("json", '{"oneOf":[{"type":"integer","minimum":1},{"type":"integer","maximum":9}]}', "'oneOf'.* use 'anyOf'"),
    ("json", '{"type":"integer","minimum":5,"maximum":4}', "."),
    ("json", "false", "not valid JSON"),
    ("json", '{"type":"string","pattern":"(?=a)"}', "."),
    ("regex", "(", "."),
    ("regex", "(?=a)b", "."),
    ("choice", "[7]", "not valid JSON"),
    ("lark", "x", "."),
    ("lark", 'root: "a"', "."),
    ("lark", '{"grammars":[{"json_schema":{}}]}', "."),
    ("lark", "start: <|im_start|>", "control token"),
]


@pytest.mark.parametrize(("kind", "text", "why"), REFUSED)
def test_what_is_refused(structures: Structures, kind: StructureKind, text: str, why: str) -> None:
    """By the field of the request, in one line; whether it is proven or compiled at once."""
    for refuse in (structures.prove, *([structures.compile] if "control" not in why else [])):
        with pytest.raises(StructureError, match=why) as error:
            refuse(form(kind, text))
        assert error.value.param == "theirs" and "\n" not in str(error.value)
    assert not structures.knows(form(kind, text))


TAGGED = """{"oneOf":[{"$ref":"#/$defs/a"},{"$ref":"#/$defs/b"}],"discriminator":{"propertyName":"kind"},"$defs":{
  "a":{"type":"object","properties":{"kind":{"const":"a"},"x":{"type":"integer"}},"required":["kind"]},
  "b":{"type":"object","properties":{"kind":{"const":"%s"}},"required":["kind"]}}}"""


def test_tagged_unions(structures: Structures) -> None:
    """A oneOf of references to objects is followed where a constant property tells them apart."""
    structures.prove(form("json", TAGGED % "b"))
    with pytest.raises(StructureError, match="'oneOf'"):
        structures.prove(form("json", TAGGED % "a"))


def test_a_client_cannot_switch_keywords_off(structures: Structures) -> None:
    """x-guidance is ours."""
    with pytest.raises(StructureError, match="uniqueItems"):
        structures.prove(form("json", '{"x-guidance":{"lenient":true},"type":"array","uniqueItems":true}'))


def test_an_ambiguous_grammar_is_followed_for_a_while_only(structures: Structures, bpe: Model) -> None:
    """Before it takes long: each of its texts has ever more parses."""
    matcher = structures.compile(form("lark", 'start: x\nx: x x x | "a" | x x | ""')).copy()
    (a,) = bpe.tokenize("a", add_special=False, parse_special=False)
    with pytest.raises(LlamaError, match="items"):
        for _ in range(100):
            matcher.allowed()
            matcher.follow([a])


def test_a_large_choice_is_not_ambiguous(structures: Structures) -> None:
    """Nor is an object with many optional properties."""
    structures.prove(form("choice", json.dumps([f"choice {n}" for n in range(1024)])))
    properties = {f"p{n}": {"type": "null"} for n in range(450)}
    structures.prove(form("json", json.dumps({"type": "object", "properties": properties})))


def test_what_is_proven_or_compiled_is_kept(structures: Structures) -> None:
    """By its text, whichever field it came in; of very many the latest."""
    first, second = form("regex", "a"), form("lark", 'start: "a"')
    structures.prove(first)
    structures.compile(second)
    assert structures.knows(Structure("regex", "a", "another")) and structures.knows(second)
    assert not structures.knows(form("lark", "a"))
    for n in range(MOST_KEPT):
        structures.compile(form("regex", f"{n}"))
        structures.compile(first)
    assert structures.knows(first) and not structures.knows(second)
    assert repr(structures) == f"<Structures {MOST_KEPT} kept>"


def test_one_that_failed_is_compiled_again(structures: Structures, bpe: Model) -> None:
    """What its streams have made of its lexer may be why."""
    structure = form("regex", "a")
    sampler = structures.sampler(structure, Argmax(), ())
    sampler.go_on([], [5])  # no "a"
    with pytest.raises(StructureError):
        sampler.draw(None, None)  # type: ignore[arg-type]  # it does not get that far
    assert not structures.knows(structure)
    sampler.close()


def test_the_vocabulary_is_made_once(structures: Structures) -> None:
    """When it is needed, whichever threads need it."""
    made = []
    threads = [threading.Thread(target=lambda: made.append(structures.load())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4 and len(set(map(id, made))) == 1


def test_a_model_that_has_no_end(bpe: Model) -> None:
    """It is refused with the field's name."""

    class Endless:
        end_tokens: frozenset[int] = frozenset()

    made = Structures(Endless())  # type: ignore[arg-type]
    with pytest.raises(StructureError, match="no token that ends") as error:
        made.prove(form("regex", "a"))
    assert error.value.param == "theirs"
    made.close()
