"""Any bad input gets a 4xx in OpenAI's error format, and never reaches the engine."""

from __future__ import annotations

import asyncio
import gzip
import logging
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.api.openai_params import ChatRequest, TextRequest
from service.api.params import StreamRequest, parse_json, parse_query, validate
from service.api.unsupported import refuse_unsupported
from service.errors import Invalid
from service.protocol.sampling import N_SEEDS
from tests.conftest import Serve, Service
from tests.patience import PATIENCE_S

PROMPT = {"prompt": "hi"}
CHAT = {"messages": [{"role": "user", "content": "hi"}]}
POSTS = ("/stream", "/v1/streams", "/v1/chat/completions", "/v1/completions")


async def refused(service: Service, method: str, path: str, **options: Any) -> tuple[int, str, str | None]:
    """The (status, code, param) of an error body, whose format is checked."""
    async with service.client.request(method, path, **options) as response:
        raw = await response.read()
        assert response.content_type == "application/json", raw
        error = orjson.loads(raw)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"] and error["type"]
        assert response.headers["X-Request-ID"]
        return response.status, error["code"], error["param"]


BODIES: dict[str, bytes] = {
    "empty": b"",
    "not json": b"prompt=hi",
    "cut": b'{"prompt": "hi',
    "trailing": b'{"prompt": "hi"} x',
    "a list": b"[1, 2]",
    "a number": b"7",
    "null": b"null",
    "NaN": b'{"prompt": "hi", "temperature": NaN}',
    "Infinity": b'{"prompt": "hi", "temperature": Infinity}',
    "1e999": b'{"prompt": "hi", "temperature": 1e999}',
    "-1e999": b'{"prompt": "hi", "temperature": -1e999}',
    "invalid UTF-8": b'{"prompt": "\xff\xfe"}',
    "a lone surrogate": b'{"prompt": "\\ud800"}',
    "an overlong encoding": b'{"prompt": "\xc0\x80"}',
    "deep": b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "a huge number": b'{"prompt": "hi", "max_tokens": ' + b"9" * 5000 + b"}",
    "UTF-16": '{"prompt": "hi"}'.encode("utf-16"),
    "NUL": b"\0" * 100,
    "nothing asked": b"{}",
}


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
async def test_a_body_that_is_not_a_request(serve: Serve, path: str, body: bytes) -> None:
    """Malformed JSON, invalid numbers and bytes that are not text get 400."""
    service = await serve()
    status, _, _ = await refused(service, "POST", path, data=body)
    assert status == 400
    assert service.engine.submitted == []


FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"temperature": []}, "temperature"),
    ({"top_p": 1.01}, "top_p"),
    ({"top_p": -1}, "top_p"),
    ({"min_p": 2}, "min_p"),
    ({"top_k": 1.5}, "top_k"),
    ({"top_k": -2}, "top_k"),
    ({"top_k": 2**31}, "top_k"),
    ({"repeat_penalty": 0}, "repeat_penalty"),
    ({"repetition_penalty": -1}, "repetition_penalty"),
    ({"repeat_last_n": -1}, "repeat_last_n"),
    ({"repeat_last_n": 2**20}, "repeat_last_n"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"frequency_penalty": -3}, "frequency_penalty"),
    ({"dynatemp_range": -0.1}, "dynatemp_range"),
    ({"dynatemp_exponent": 11}, "dynatemp_exponent"),
    ({"typical_p": 1.1}, "typical_p"),
    ({"typical_p": "most"}, "typical_p"),
    ({"top_n_sigma": -2}, "top_n_sigma"),
    ({"xtc_probability": 1.5}, "xtc_probability"),
    ({"xtc_threshold": -0.1}, "xtc_threshold"),
    ({"dry_multiplier": -1}, "dry_multiplier"),
    ({"dry_base": 0.9}, "dry_base"),
    ({"dry_allowed_length": -1}, "dry_allowed_length"),
    ({"dry_allowed_length": 1.5}, "dry_allowed_length"),
    ({"dry_penalty_last_n": -1}, "dry_penalty_last_n"),
    ({"dry_penalty_last_n": 2**20}, "dry_penalty_last_n"),
    ({"dry_sequence_breakers": []}, "dry_sequence_breakers"),
    ({"dry_sequence_breakers": [""]}, "dry_sequence_breakers"),
    ({"dry_sequence_breakers": [5]}, "dry_sequence_breakers"),
    ({"dry_sequence_breakers": ["a"] * 17}, "dry_sequence_breakers"),
    ({"dry_sequence_breakers": ["é" * 21]}, "dry_sequence_breakers"),
    ({"mirostat": 3}, "mirostat"),
    ({"mirostat": True}, "mirostat"),
    ({"mirostat_tau": -1}, "mirostat_tau"),
    ({"mirostat_eta": 11}, "mirostat_eta"),
    ({"adaptive_target": 1.1}, "adaptive_target"),
    ({"adaptive_decay": 1}, "adaptive_decay"),
    ({"logit_bias": 5}, "logit_bias"),
    ({"logit_bias": "5"}, "logit_bias"),
    ({"logit_bias": "{"}, "logit_bias"),
    ({"logit_bias": {"": 1}}, "logit_bias"),
    ({"logit_bias": {"x" * 65: 1}}, "logit_bias"),
    ({"logit_bias": {"-5": 1}}, "logit_bias"),
    ({"logit_bias": {"5": 101}}, "logit_bias"),
    ({"logit_bias": {"5": True}}, "logit_bias"),
    ({"logit_bias": {"5": None}}, "logit_bias"),
    ({"logit_bias": {"5": "1"}}, "logit_bias"),
    ({"logit_bias": {str(2**31): 1}}, "logit_bias"),
    ({"logit_bias": [5]}, "logit_bias"),
    ({"logit_bias": [[5]]}, "logit_bias"),
    ({"logit_bias": [[5.5, 1]]}, "logit_bias"),
    ({"logit_bias": [[True, 1]]}, "logit_bias"),
    ({"logit_bias": [[5, 1]] * 1025}, "logit_bias"),
    ({"stop_token_ids": 5}, "stop_token_ids"),
    ({"stop_token_ids": [-1]}, "stop_token_ids"),
    ({"stop_token_ids": [2**31]}, "stop_token_ids"),
    ({"stop_token_ids": ["</s>"]}, "stop_token_ids"),
    ({"stop_token_ids": [5] * 129}, "stop_token_ids"),
    ({"min_tokens": -1}, "min_tokens"),
    ({"min_tokens": 1.5}, "min_tokens"),
    ({"min_tokens": 8, "max_tokens": 7}, "min_tokens"),
    ({"bad_words": [5]}, "bad_words"),
    ({"bad_words": [""]}, "bad_words"),
    ({"bad_words": ["x" * 129]}, "bad_words"),
    ({"bad_words": ["x"] * 129}, "bad_words"),
    ({"include_stop_str_in_output": 1}, "include_stop_str_in_output"),
    ({"skip_special_tokens": 0}, "skip_special_tokens"),
    ({"t_max_predict_ms": -2}, "t_max_predict_ms"),
    ({"t_max_predict_ms": "1"}, "t_max_predict_ms"),
    ({"add_generation_prompt": "no"}, "add_generation_prompt"),
    ({"continue_final_message": "content"}, "continue_final_message"),
    ({"add_special_tokens": 0}, "add_special_tokens"),
    ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
    ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
    ({"truncate_prompt_tokens": True}, "truncate_prompt_tokens"),
    ({"cache_prompt": 0}, "cache_prompt"),
    ({"grammar": 5}, "grammar"),
    ({"grammar": "x" * 65537}, "grammar"),
    ({"response_format": "text"}, "response_format"),
    ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
    ({"guided_json": {}, "format": "json"}, "format"),
    ({"seed": "x"}, "seed"),
    ({"seed": 1.5}, "seed"),
    ({"seed": -(2**64)}, "seed"),
    ({"seed": 2**63}, "seed"),
    ({"seed": 2**64}, "seed"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -2}, "max_tokens"),
    ({"max_tokens": 6.5}, "max_tokens"),
    ({"max_tokens": 1e300}, "max_tokens"),
    ({"n_predict": 0}, "n_predict"),
    ({"num_predict": "9"}, "num_predict"),
    ({"max_tokens": 2**31}, "max_tokens"),
    ({"max_tokens": "9"}, "max_tokens"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"stop": 5}, "stop"),
    ({"stop": ""}, "stop"),
    ({"stop": [""]}, "stop"),
    ({"stop": [1]}, "stop"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"stop": "x" * 257}, "stop"),
    ({"ignore_eos": "yes"}, "ignore_eos"),
    ({"ignore_eos": 1}, "ignore_eos"),
    ({"pace": 0}, "pace"),
    ({"pace": -1}, "pace"),
    ({"pace": "fast"}, "pace"),
    ({"pace": 1e5}, "pace"),
    ({"model": 7}, "model"),
    ({"model": "m" * 257}, "model"),
]
NATIVE: list[tuple[dict[str, Any], str]] = [
    ({"prompt": ""}, "prompt"),
    ({"prompt": 7}, "prompt"),
    ({"prompt": ["hi"]}, "prompt"),
    ({"prompt": "hi", "messages": CHAT["messages"]}, "prompt"),
    ({"prompt": "hi", "system": 7}, "system"),
    ({"prompt": "hi", "key": "two words"}, "key"),
    ({"prompt": "hi", "key": "k" * 129}, "key"),
    ({"prompt": "hi", "key": ""}, "key"),
]
CALL: dict[str, Any] = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
MESSAGES: list[Any] = [
    None,
    [],
    {},
    "hi",
    [7],
    [{}],
    [{"role": "user"}],
    [{"content": "hi"}],
    [{"role": "wizard", "content": "hi"}],
    [{"role": "tool", "content": "hi", "tool_call_id": "x"}],
    [{"role": "tool", "content": "hi"}],
    [{"role": "user", "content": "hi", "tool_calls": [CALL]}],
    [{"role": "assistant", "content": "hi", "tool_calls": [CALL | {"type": "custom"}]}],
    [{"role": "assistant", "content": "hi", "tool_calls": [CALL | {"id": ""}]}],
    [{"role": "assistant", "content": "hi", "tool_calls": [CALL] * 129}],
    [{"role": "assistant", "content": "hi", "tool_calls": [CALL | {"function": {"name": "f", "arguments": 7}}]}],
    [{"role": "assistant", "content": "hi", "tool_calls": [CALL | {"function": {"name": "f g"}}]}],
    [{"role": "assistant", "content": "hi", "tool_calls": 7}],
    [{"role": "assistant", "content": None, "tool_calls": []}],
    [{"role": "assistant", "content": "hi", "reasoning_content": 7}],
    [{"role": ["user"], "content": "hi"}],
    [{"role": "user", "content": None}],
    [{"role": "user", "content": 7}],
    [{"role": "user", "content": {"type": "text"}}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
    [{"role": "user", "content": [{"type": "text", "text": 7}]}],
    [{"role": "user", "content": ["hi"]}],
    [{"role": "user", "content": "hi"}] * 2049,
    [{"role": "assistant", "content": None, "tool_calls": [{"id": "a", "type": "function", "function": {}}]}],
    [{"role": "assistant", "content": "hi", "function_call": {"name": "f", "arguments": "{}"}}],
    [{"role": "function", "name": "f", "content": "3"}],
    [{"role": "assistant", "content": "hi", "prefix": True}],
    [{"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}],
]
PROMPTS: list[Any] = [
    None,
    "",
    [],
    7,
    {},
    [""],
    ["a", ""],
    [[1], []],
    [[1], 2],
    [[]],
    [1.5],
    [True],
    [-1],
    [2**31],
    [1, "a"],
    ["a", 1],
    [None],
]
UNSUPPORTED: list[tuple[str, Any]] = [
    ("tools", [{"type": "function", "function": {"name": "f"}}]),
    ("tool_choice", "required"),
    ("tool_choice", {"type": "function"}),
    ("functions", [{"name": "f"}]),
    ("function_call", {"name": "f"}),
    ("suffix", "end"),
    ("modalities", ["audio"]),
    ("audio", {"voice": "x"}),
    ("prediction", {"type": "content"}),
]


@pytest.mark.parametrize("path", POSTS)
async def test_every_parameter_out_of_bounds(serve: Serve, path: str) -> None:
    """Wrong types and numbers out of bounds get 400 naming the parameter, on every route."""
    service = await serve()
    prompt: dict[str, Any] = CHAT if "chat" in path else {"prompt": "hi"}
    for fields, param in FIELDS:
        answer = await refused(service, "POST", path, json={**prompt, **fields})
        assert answer == (400, "invalid_request", param), fields
    assert service.engine.submitted == []


async def test_every_native_field_out_of_bounds(serve: Serve) -> None:
    """The same for the parameters that only /stream has."""
    service = await serve()
    for path in ("/stream", "/v1/streams"):
        for fields, param in NATIVE:
            assert await refused(service, "POST", path, json=fields) == (400, "invalid_request", param), fields
    assert service.engine.submitted == []


async def test_invalid_messages(serve: Serve) -> None:
    """Invalid roles, and contents that are not text, get 400 naming `messages`."""
    service = await serve()
    for messages in MESSAGES:
        answer = await refused(service, "POST", "/v1/chat/completions", json={"messages": messages})
        assert answer == (400, "invalid_request", "messages"), messages
    assert service.engine.submitted == []


async def test_invalid_prompts(serve: Serve) -> None:
    """Anything but a text, token ids, or a list of these gets 400 naming `prompt`."""
    service = await serve()
    for prompt in PROMPTS:
        answer = await refused(service, "POST", "/v1/completions", json={"prompt": prompt})
        assert answer == (400, "invalid_request", "prompt"), prompt
    assert service.engine.submitted == []


async def test_what_is_not_supported_is_named(serve: Serve) -> None:
    """An unsupported parameter that would change the answer is refused by name, never ignored."""
    service = await serve()
    for path in POSTS:
        for name, value in UNSUPPORTED:
            answer = await refused(service, "POST", path, json={**(CHAT if "chat" in path else PROMPT), name: value})
            assert answer == (400, "unsupported_parameter", name), (name, value)
    for query in ("n=2", "raw=true", "suffix=x", "n_probs=5"):
        answer = await refused(service, "GET", f"/stream?prompt=a&{query}")
        assert answer == (400, "unsupported_parameter", query.partition("=")[0])
    assert service.engine.submitted == []


async def test_errors_are_in_plain_words(serve: Serve) -> None:
    """An error message has no type name, no branch of a union and nothing of the field's value."""
    service = await serve()
    roles = "'system', 'developer', 'user', 'assistant' or 'tool'"
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"max_tokens": 0}, "max_tokens: it must be 1 or more; -1 or no value means no limit."),
        ({"temperature": "secret"}, "temperature: it must be a number."),
        ({"logit_bias": [[1.5, 1]]}, "logit_bias.0.0: it must be a token id, or a text of at most 64 characters."),
        (
            {"truncate_prompt_tokens": 0},
            "truncate_prompt_tokens: it must be 1 or more; -1 means that the answer has room.",
        ),
        ({"stop": [""]}, "stop.0: it must not be empty."),
        ({"stop": ["a"] * 17}, "stop: it may have at most 16 items."),
        ({"messages": "secret"}, "messages: it must be a list."),
        ({"messages": ["secret"]}, "messages.0: it must be an object."),
        (
            {"messages": [{"role": "secret", "content": "x"}]},
            f"messages.0.role: it must be {roles}.",
        ),
        ({"messages": [{"role": "user"}]}, "messages.0.content: it is missing."),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content: it must be a string."),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0: a tool's message needs a 'tool_call_id'."),
        (
            {"messages": [{"role": "tool", "content": "x", "tool_call_id": "secret"}]},
            "messages.0.tool_call_id: no call in the messages before has this id.",
        ),
        ({"stream_options": 5}, "stream_options: it must be an object."),
    ]
    for fields, message in wrong:
        async with service.client.post("/v1/chat/completions", json={**CHAT, **fields}) as response:
            assert (response.status, (await response.json())["error"]["message"]) == (400, message)


async def test_numbers_as_other_languages_write_them(serve: Serve) -> None:
    """An integer may be written with a decimal point, and a JSON body may begin with a byte order mark."""
    service = await serve()
    for body in (b'{"prompt": "hi", "max_tokens": 6.0, "seed": -2}', b'\xef\xbb\xbf{"prompt": "hi", "n_predict": 6}'):
        async with service.client.post("/v1/completions", data=body) as response:
            assert response.status == 200
    assert [submit.max_tokens for submit in service.engine.submitted] == [6, 6]
    assert service.engine.submitted[0].sampling.seed == N_SEEDS - 2


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("", "prompt"),
        ("prompt=", "prompt"),
        ("prompt=%ff%fe", None),
        ("prompt=%ed%a0%80", None),  # a surrogate, encoded
        ("prompt=a&prompt=b", "prompt"),
        ("prompt=a&temperature=nan", "temperature"),
        ("prompt=a&temperature=inf", "temperature"),
        ("prompt=a&temperature=1e999", "temperature"),
        ("prompt=a&temperature=x", "temperature"),
        ("prompt=a&max_tokens=1.5", "max_tokens"),
        ("prompt=a&max_tokens=" + "9" * 5000, "max_tokens"),
        ("prompt=a&top_k=0x10", "top_k"),
        ("prompt=a&pace=0", "pace"),
        ("prompt=a&pace=nan", "pace"),
        ("prompt=a&ignore_eos=maybe", "ignore_eos"),
        ("prompt=a&key=%0a", "key"),
        ("prompt=a&stop=", "stop"),
        ("prompt=a&messages=x", "messages"),
        ("&".join(f"a{n}=1" for n in range(65)), None),
    ],
)
async def test_a_query_that_is_not_a_request(serve: Serve, query: str, param: str | None) -> None:
    """The same bounds hold for GET."""
    service = await serve()
    async with service.client.get(f"{service.url}/stream?{query}") as response:
        error = (await response.json())["error"]
        assert (response.status, error["code"], error["param"]) == (400, "invalid_request", param)
    assert service.engine.submitted == []


async def raw_request(service: Service, raw: bytes) -> bytes:
    """The answer to hand-made bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(service.url.rsplit(":", 1)[1]))
    writer.write(raw)
    async with asyncio.timeout(PATIENCE_S):
        answer = await reader.read()
    writer.close()
    return answer


async def test_broken_utf_8_on_the_wire(serve: Serve) -> None:
    """A query that no client library would send is refused as well."""
    service = await serve()
    answer = await raw_request(service, b"GET /stream?prompt=%ff HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400") and b"not valid UTF-8" in answer


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /stream?prompt=" + b"secret" * 2000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /stream HTTP/1.1\r\nHost: a\r\nX: " + b"secret" * 2000 + b"\r\n\r\n",
        b"secret secret secret\r\n\r\n",
        b"GET /stream?prompt=\x00secret HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /stream HTTP/1.1\r\nHost: a\r\nContent-Length: secret\r\n\r\n",
    ],
    ids=["url", "header", "line", "nul", "length"],
)
async def test_invalid_http(serve: Serve, raw: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """An overlong address or header, or no HTTP at all, gets our error body, and nothing of it is logged."""
    caplog.set_level(logging.DEBUG)
    service = await serve()
    answer = await raw_request(service, raw)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400") or head.startswith(b"HTTP/1.0 400")
    assert orjson.loads(body)["error"]["code"] == "invalid_request"
    assert b"\r\nServer: rill\r\n" in head and b"\r\nX-Request-ID: " in head
    assert b"secret" not in answer
    said = [record for record in caplog.records if "secret" in record.getMessage() or "secret" in str(record.exc_info)]
    assert said == []


@pytest.mark.parametrize(
    "target", ["//[/stream?prompt=x", "http://[/stream", "http://a:b/stream?prompt=x", "*", "/stream??prompt=x"]
)
async def test_odd_request_targets(serve: Serve, target: str) -> None:
    """Any content of the request line gets a 4xx."""
    service = await serve()
    answer = await raw_request(service, f"GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), answer
    assert service.engine.submitted == []


@pytest.mark.parametrize("version", ["0.9", "2.0"])
async def test_unsupported_http_versions(serve: Serve, version: str) -> None:
    """A request in an unsupported version is refused, rather than answered in another version under its name."""
    service = await serve()
    answer = await raw_request(service, f"GET /stream?prompt=x HTTP/{version}\r\nHost: a\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert service.engine.submitted == []


@pytest.mark.parametrize(
    ("host", "origin"), [("[", "x"), ("a", "http://["), ("[", "http://["), ("a", ""), ("", "http://a")]
)
async def test_invalid_hosts_and_origins(serve: Serve, host: str, origin: str) -> None:
    """An address that can't be parsed counts as another site's, or as no browser's: it is never a server error."""
    service = await serve()
    for path in ("/stream?prompt=x", "/v1/models"):
        head = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\nConnection: close\r\n\r\n"
        answer = await raw_request(service, head.encode())
        assert answer.split(b" ")[1] in (b"200", b"403")


async def test_a_body_beyond_the_limit(serve: Serve) -> None:
    """It gets 413, whether the limit shows in Content-Length or only while the body is received."""
    service = await serve(max_body_bytes=10_000)
    body = orjson.dumps({"prompt": "x" * 10_000})

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 1000):
            yield body[start : start + 1000]

    for path in POSTS:
        assert (await refused(service, "POST", path, data=body))[0] == 413
        assert (await refused(service, "POST", path, data=pieces()))[0] == 413
    assert service.engine.submitted == []


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "identity, gzip"])
async def test_a_compressed_body(serve: Serve, encoding: str) -> None:
    """It gets 415 without being read: no decompression bomb is unpacked."""
    service = await serve()
    body = gzip.compress(orjson.dumps({"prompt": "hi"}))
    for path in POSTS:
        status, code, _ = await refused(service, "POST", path, data=body, headers={"Content-Encoding": encoding})
        assert (status, code) == (415, "unsupported_encoding")
    assert service.engine.submitted == []


@pytest.mark.parametrize(
    "kind", ["application/x-www-form-urlencoded", "text/plain", "application/json; charset=latin-1", ""]
)
async def test_any_content_type_is_taken(serve: Serve, kind: str) -> None:
    """`curl -d` sends JSON as a form: only the body counts."""
    service = await serve()
    headers = {"Content-Type": kind} if kind else {}
    async with service.client.post("/stream", data=b'{"prompt": "hi"}', headers=headers) as response:
        assert response.status == 200
        await response.read()


async def test_any_model_name_is_answered(serve: Serve) -> None:
    """Any string is returned unchanged as the model's name."""
    service = await serve()
    for name in ("\0", "\n", '"', "é🦊", "a/b:c", "x" * 256, " "):
        async with service.client.post("/v1/chat/completions", json={**CHAT, "model": name}) as response:
            assert (response.status, (await response.json())["model"]) == (200, name)
        async with service.client.post(
            "/v1/chat/completions", json={**CHAT, "model": name, "stream": True}
        ) as response:
            assert response.status == 200
            assert orjson.dumps(name) in await response.read()


async def test_unknown_fields_and_nulls_are_ignored(serve: Serve) -> None:
    """null means the default, and an unknown field changes nothing."""
    service = await serve()
    names = [name for name in StreamRequest.model_fields if name != "prompt"]
    body = {"prompt": "hi", **dict.fromkeys(names), "user": "x", "metadata": {"a": [1]}, "store": True}
    async with service.client.post("/stream", json=body) as response:
        assert response.status == 200
        await response.read()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v1/nothing", 404),
        ("GET", "/web/../settings.py", 404),
        ("GET", "/web/%2e%2e/settings.py", 404),
        ("PUT", "/stream", 405),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("POST", "/", 405),
        ("OPTIONS", "/stream", 405),
        ("GET", "/v1/streams", 405),
    ],
)
async def test_unknown_addresses(serve: Serve, method: str, path: str, status: int) -> None:
    """404 and 405 have the same format as all other errors."""
    service = await serve()
    assert (await refused(service, method, path))[0] == status


async def test_a_prompt_is_in_no_error_and_no_log(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """Errors name the field and not its value; logs have neither."""
    caplog.set_level(logging.DEBUG)
    service = await serve()
    for fields in (
        {"prompt": "secret", "temperature": "secret"},
        {"prompt": ["secret"]},
        {"prompt": "secret", "secret": 1, "key": "sec ret"},
    ):
        async with service.client.post("/stream", json=fields) as response:
            assert response.status == 400
            assert "secret" not in await response.text()
    path = f"/stream?prompt={quote('secret story')}"
    async with service.client.get(path, headers={"X-Request-ID": "mine"}) as response:
        await response.read()
    lines = [repr(record.__dict__) for record in caplog.records if record.name.startswith(("service", "aiohttp.s"))]
    assert any("'request': 'mine'" in line for line in lines)
    assert [line for line in lines if "secret" in line] == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(sorted({*ChatRequest.model_fields, *TextRequest.model_fields, *StreamRequest.model_fields}))


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=300)
@given(st.dictionaries(NAMES | st.text(max_size=5), JSON, max_size=6))
def test_any_json_is_a_request_or_invalid(body: dict[str, Any]) -> None:
    """A body raises nothing but Invalid."""
    for schema in (ChatRequest, TextRequest, StreamRequest):
        try:
            refuse_unsupported(body)
            order = validate(schema, body).to_generation()  # type: ignore[attr-defined]  # each of the three has it
        except Invalid:
            continue
        order.submit("id", 1, 0.0)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_request_or_invalid(raw: bytes) -> None:
    """Neither a body nor a query raises anything but Invalid."""
    for read in (lambda: parse_json(raw), lambda: parse_query(raw.decode("latin-1"))):
        try:
            read()
        except Invalid:
            continue
