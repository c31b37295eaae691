"""Bad requests that are valid HTTP, and JSON or nearly: the fault is in the body. Each function draws one kind."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from service.api.openai_params import ChatRequest, TextRequest
from service.api.params import StreamRequest, validate
from service.api.unsupported import HARMLESS, HARMLESS_IN_MESSAGE, HARMLESS_WITH
from service.errors import Invalid
from tests.fuzz.request import Request
from tests.fuzz.values import BROKEN, POISON, VALUES, any_value, edges, text

Field = tuple[bytes, bytes]
CHAT, TEXT = b"/v1/chat/completions", b"/v1/completions"
CHATS, TEXTS = (CHAT, b"/chat/completions"), (TEXT, b"/completions", b"/completion")
POSTS = (b"/stream", b"/v1/streams", *CHATS, *TEXTS)
MODELS = {**TextRequest.model_fields, **ChatRequest.model_fields, **StreamRequest.model_fields}
UNSUPPORTED = sorted({*HARMLESS, *HARMLESS_WITH})
NAMES = sorted({*MODELS, *UNSUPPORTED, "stream", "stream_options", "user", "id", "tenant", "__proto__", ""})
PROMPT: Field = (b'"prompt"', b'"Tell me a story"')
MESSAGES: Field = (b'"messages"', b'[{"role":"user","content":"hi"}]')
LIMITS = ("max_tokens", "max_completion_tokens", "n_predict", "num_predict")
SHORT: Field = (b'"max_tokens"', b"4")  # a request that turns out to be valid soon ends
DRY: Field = (b'"dry_multiplier"', b"1")


def asked(rng: random.Random, kind: str, *wrong: Field, path: bytes | None = None) -> Request:
    """A request that would be valid but for these fields, which are at any place in it."""
    path = path or rng.choice(POSTS)
    prompt = MESSAGES if path in CHATS or (path not in TEXTS and rng.random() < 0.3) else PROMPT
    fields = [f for f in (prompt, SHORT) if f[0] not in dict(wrong)] + list(wrong)
    if path in (*CHATS, *TEXTS) and rng.random() < 0.5:
        fields.append((b'"stream"', b"true"))
    rng.shuffle(fields)
    return Request(kind, target=path, fields=tuple(fields))


def one_of(rng: random.Random, values: Sequence[Any]) -> bytes:
    """One of the values, as JSON; occasionally any other value."""
    return any_value(rng) if rng.random() < 0.2 else orjson.dumps(rng.choice(values))


def fields(rng: random.Random) -> Request:
    """Up to three fields, mostly known ones, of wrong types or out of bounds, possibly repeated."""
    wrong = []
    for _ in range(rng.randint(1, 3)):
        name = rng.choice(NAMES)
        numbers = edges(MODELS[name]) if name in MODELS else []
        value = rng.choice(numbers) if numbers and rng.random() < 0.5 else any_value(rng)
        wrong.append((orjson.dumps(name), value))
    return asked(rng, "fields", *wrong, *(wrong[:1] if rng.random() < 0.1 else []))


def broken_json(rng: random.Random) -> Request:
    """A valid request of which bytes are lost, changed, repeated, or followed by others; or no object at all."""
    request = asked(rng, "broken JSON", (b'"system"', rng.choice(BROKEN)) if rng.random() < 0.3 else SHORT)
    body = request.encode().partition(b"\r\n\r\n")[2]
    at = rng.randrange(len(body))
    changes: list[Callable[[], bytes]] = [
        lambda: body[:at],
        lambda: body[:at] + rng.randbytes(1) + body[at + 1 :],
        lambda: body[:at] + body[at:] * 2,
        lambda: body[:at] + rng.randbytes(rng.randint(1, 8)) + body[at:],
        lambda: body + rng.choice([b"x", b"{}", b",", b"\0", b"\x1a"]),
        lambda: rng.choice([b"\xef\xbb\xbf", b" " * 5000, b"/**/", b"\x1f\x8b", b")]}'"]) + body,
        lambda: body.decode("latin-1").encode(rng.choice(["utf-16", "utf-32", "utf-7"])),
        lambda: any_value(rng),
        lambda: rng.choice([b"[", b'{"a":', b'{"prompt":[']) * rng.choice([900, 1025, 100_000]),
        lambda: b"{" + b'"a":1,' * 30_000 + b'"a":1}',
        lambda: b"",
    ]
    return Request("broken JSON", target=request.target, body=rng.choice(changes)())


ROLES = ("user", "assistant", "system", "developer", "tool", "function", "", "User", "<|im_start|>", None, 7)


def message(rng: random.Random) -> bytes:
    """A message with something odd in it, or something that is not a message."""
    if rng.random() < 0.1:
        return any_value(rng)
    role = one_of(rng, ROLES if rng.random() < 0.2 else ROLES[:4])
    part = rng.choice([b'{"type":"text","text":%b}' % text(rng), b'{"type":"image_url"}', any_value(rng)])
    content = rng.choice([text(rng), text(rng), b"[%b]" % b",".join([part] * rng.randint(0, 4)), any_value(rng)])
    name = rng.choice(["name", *HARMLESS_IN_MESSAGE]).encode()
    more = b',"%b":%b' % (name, any_value(rng)) if rng.random() < 0.2 else b""
    return b'{"role":%b,"content":%b%b}' % (role, content, more)


def messages(rng: random.Random) -> Request:
    """Conversations that are invalid, or that no template expects."""
    listed = b"[%b]" % b",".join(message(rng) for _ in range(rng.choice([0, 1, 1, 2, 3, 5, 40])))
    if rng.random() < 0.02:
        listed = b"[%b]" % b",".join([b'{"role":"user","content":"a"}'] * rng.choice([2048, 2049, 20_000]))
    system = ((b'"system"', text(rng)),) if rng.random() < 0.2 else ()
    return asked(rng, "messages", (b'"messages"', listed), *system)


def poison(rng: random.Random) -> Request:
    """Texts with a meaning to a template, a tokenizer or an event stream."""
    path = rng.choice([b"/stream", b"/v1/streams", TEXT])
    name = ((b'"model"', text(rng, 2)),) if rng.random() < 0.2 else ()
    return asked(rng, "poison", (b'"prompt"', text(rng, 12)), *name, path=path)


IDS = (0, 1, 2, 5, 300, 1535, 1536, -1, 2**31 - 1, 2**31)


def tokens(rng: random.Random) -> Request:
    """Prompts of token ids: invalid ids, ids outside the vocabulary, nested lists, a megabyte of them."""
    ids: list[Any] = rng.choices(IDS[: rng.randint(1, len(IDS))], k=rng.randint(0, 30))
    if rng.random() < 0.3:
        ids.append(rng.choice([None, True, 1.5, "a", [], [1], {}]))
    prompts = [orjson.dumps(ids), orjson.dumps([ids]), orjson.dumps([ids, ids]), orjson.dumps(["hi", ids])]
    prompts += [b"[%b]" % b",".join([b"5"] * rng.choice([1000, 1023, 1024, 1025, 20_000, 500_000]))]
    return asked(rng, "token ids", (b'"prompt"', rng.choice(prompts)), path=TEXT)


# Valid rules, and pieces that make them wrong, endless or costly.
GRAMMAR = 'root ::= ("a" | [b-d]+ " " tail){1,3}\ntail ::= [^\\x00-\\x1f]* "\\n"?  # whatever\n'
# fmt: off
# (lists, not code: as many values a line as fit)
PIECES = [
    "::=", "|", "(", ")", "[", "]", "{", "}", '"', "*", "+", "?", "\n", "\r\n", "#", "\\", "\\x", "\\u12", "{2,1}",
    "{0}", "{99999}", "{\n2}", "root", " ::= root", "<|im_end|>", "<[5]>", "!<a>", "[^", "[z-a]", ".", "\0", "\ud7ff",
    "🦊", "{-1}", "",
]
GRAMMARS = [
    "", " ", "root", "root ::=", "root ::= root", "root ::= root | root", "tail ::= 'a'", "root ::= missing",
    *("root ::= " + "(" * n + '"a"' + ")" * n for n in (63, 64, 65, 20_000)), 'root ::= ("a"?)*', 'root ::= (("a"*)*)*',
    'root ::= a b\na ::= b\nb ::= a | ""', 'root ::= "a"{2000}', 'root ::= ""', 'root ::= ("a"{40}){40}',
    'root ::= (("a"{12}){12}){12}', "root ::= [" + "a-z" * 900 + "]", "root ::= [一-龥]{200}", "\n" * 60_000,
    'root ::= "' + "a" * 60_000 + '"', 'root ::= "a"\n' * 3000, "root ::= " + '"a" | ' * 5000 + '"a"',
]
# fmt: on


def grammars(rng: random.Random) -> Request:
    """Grammars that are invalid, or expensive to follow."""
    grammar = rng.choice(GRAMMARS)
    if rng.random() < 0.7:
        grammar = GRAMMAR
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(grammar))
            grammar = grammar[:at] + rng.choice(PIECES) + grammar[at + rng.randint(0, 3) :]
    return asked(rng, "grammars", (b'"grammar"', orjson.dumps(grammar)))


def stops(rng: random.Random) -> Request:
    """Stop strings and breakers: control tokens, half characters, too many, too long, none."""
    found = rng.choices([*POISON, "", "x" * 256, "x" * 257, " "], k=rng.choice([0, 1, 2, 15, 16, 17]))
    if rng.random() < 0.7:
        found = [stop[:20] or " " for stop in found]
    value = rng.choice([orjson.dumps(found), orjson.dumps("".join(found)[:256]), any_value(rng)])
    return asked(rng, "stops", (rng.choice([b'"stop"', b'"stop"', b'"dry_sequence_breakers"']), value), DRY)


KEYS = ("0", "2", "300", "1535", "1536", str(2**31), "-1", "", "a", "1.5", "00", "٣")
BIASES: tuple[Any, ...] = (-100, 100, 0, False, -0.0, 101, True, None, "1", 1e308, [])


def biases(rng: random.Random) -> Request:
    """Biases for tokens that do not exist, for too many, against all."""
    some = rng.random() < 0.5
    pairs = [[rng.choice(KEYS[:4] if some else KEYS), rng.choice(BIASES[:5] if some else BIASES)] for _ in range(3)]
    values: list[Any] = [dict(pairs), dict(pairs), pairs, [[5, 1]] * 1025, [[]], [[1, 2, 3]]]
    values += [{str(i): -100 for i in range(1024)}, [[i, False] for i in range(512, 1536)]]
    return asked(rng, "logit_bias", (b'"logit_bias"', one_of(rng, values)))


def fits(name: str, value: bytes) -> bool:
    """Whether this value of this field is valid."""
    try:
        validate(StreamRequest, {name: orjson.loads(value)})
    except (Invalid, orjson.JSONDecodeError):
        return False
    return True


EXTREMES = {
    orjson.dumps(name): good
    for name, field in StreamRequest.model_fields.items()
    if name not in ("messages", "pace", "min_tokens", *LIMITS)
    and (good := [value for value in edges(field) if fits(name, value)])
}


def samplers(rng: random.Random) -> Request:
    """Numbers within their bounds, at their extremes, several together: nothing is refused, and nothing may break."""
    names = rng.sample(sorted(EXTREMES), rng.randint(2, 12))
    return asked(rng, "samplers", *((name, rng.choice(EXTREMES[name])) for name in names), (b'"ignore_eos"', b"true"))


WISHES: tuple[Any, ...] = (
    1,
    2,
    True,
    False,
    "auto",
    "none",
    "required",
    [],
    [{}],
    {},
    {"type": "json_object"},
    {"type": "text"},
    None,
)


def unsupported(rng: random.Random) -> Request:
    """Parameters of OpenAI's clients that are not supported."""
    wrong = [(orjson.dumps(name), one_of(rng, WISHES)) for name in rng.sample(UNSUPPORTED, rng.randint(1, 3))]
    options = ((b'"stream_options"', rng.choice([*VALUES, b'{"include_usage":1}'])),) if rng.random() < 0.3 else ()
    return asked(rng, "unsupported", *wrong, *options, path=rng.choice([CHAT, TEXT]))


KINDS = (fields, fields, broken_json, messages, poison, tokens, grammars, stops, biases, samplers, unsupported)
