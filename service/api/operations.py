"""Every public operation: what it takes, what it answers, in which errors it may end. /openapi.json is made of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from service import errors
from service.api import answers
from service.api.aliases import is_guarded
from service.api.llama_server_answers import CompletionEnd, CompletionPiece, Props
from service.api.llama_server_params import CompletionRequest
from service.api.openai_params import ChatRequest, TextRequest
from service.api.params import Params, StreamRequest

JSON, SSE, TEXT, HTML = "application/json", "text/event-stream", "text/plain", "text/html"


@dataclass(frozen=True, slots=True)
class Event:
    """One kind of event. data: the type of its JSON, or its text as it stands; name "": the default event."""

    data: Any
    name: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response. body: the type of its JSON; None: of another kind, or none at all."""

    status: int
    summary: str
    body: Any = None
    kind: str = JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """query, body: the model that validates them. events: what it may stream, with status 200."""

    method: str
    path: str
    tag: str
    summary: str
    query: type[Params] | None = None
    body: type[Params] | None = None
    answers: tuple[Answer, ...] = ()
    events: tuple[str, ...] = ()  # names in EVENTS
    refusals: tuple[type[errors.RillError], ...] = ()
    headers: tuple[str, ...] = field(default=())  # that it reads

    @property
    def needs_key(self) -> bool:
        """Where there are any."""
        return is_guarded(self.path)


FAILURE = Event(answers.Failure)
LOST = Event(answers.Failure, "failure")  # on any route, if Last-Event-ID names a stream that no longer exists
EVENTS = {
    "StreamEvents": (
        Event(answers.StreamStatus, "status"),
        Event(answers.StreamText),
        Event(answers.StreamDone, "done"),
        Event(answers.Failure, "failure"),
    ),
    "ChatEvents": (Event(answers.ChatChunk), FAILURE, Event("[DONE]"), LOST),
    "TextEvents": (Event(answers.TextCompletion), FAILURE, Event("[DONE]"), LOST),
    "CompletionEvents": (Event(CompletionPiece), Event(CompletionEnd), FAILURE, LOST),
}

ANY = (errors.RillError, errors.ExpectationFailed, errors.Invalid)
KEYED = (*ANY, errors.Unauthorized, errors.Forbidden)
STARTING = (
    *KEYED,
    errors.Unsupported,
    errors.ContextLengthExceeded,
    errors.ModelNotFound,
    errors.KeyReused,
    errors.QueueFull,
    errors.QueueTimeout,
    errors.NotReady,
    errors.ShuttingDown,
    errors.EngineCrash,
    errors.NotResumable,
)
POSTING = (*STARTING, errors.BodyTooSlow, errors.BodyTooLarge, errors.UnsupportedEncoding)
RESUMING = ("Last-Event-ID", "Idempotency-Key", "X-Resumable")
READ = Answer(204, "The stream named by Last-Event-ID has been read to its end.")


def _posting(
    path: str, tag: str, summary: str, body: type[Params], events: tuple[str, ...], *more: Answer
) -> Operation:
    return Operation(
        method="post",
        path=path,
        tag=tag,
        summary=summary,
        body=body,
        answers=(*more, READ),
        events=events,
        refusals=POSTING,
        headers=RESUMING,
    )


def _getting(path: str, tag: str, summary: str, *found: Answer, refusals: tuple[Any, ...] = ANY) -> Operation:
    return Operation(method="get", path=path, tag=tag, summary=summary, answers=found, refusals=refusals)


def _whole(body: Any) -> Answer:
    return Answer(200, "The answer: events with `stream`, one object without.", body)


OPERATIONS = (
    Operation(
        method="get",
        path="/stream",
        tag="Streams",
        summary="Generate, for EventSource; with `key` a retry attaches instead of generating again",
        query=StreamRequest,
        answers=(READ,),
        events=("StreamEvents",),
        refusals=STARTING,
        headers=("Last-Event-ID",),
    ),
    _posting("/stream", "Streams", "Generate", StreamRequest, ("StreamEvents",)),
    _posting(
        "/v1/streams",
        "Streams",
        "Start a stream without reading it",
        StreamRequest,
        tuple(EVENTS),  # with Last-Event-ID
        Answer(201, "It is started.", answers.StreamStarted),
    ),
    Operation(
        method="get",
        path="/v1/streams/{id}",
        tag="Streams",
        summary="Attach to a stream or resume it, or, with Accept: application/json, get its receipt",
        answers=(Answer(200, "The stream's events, or its receipt.", answers.AnyReceipt), READ),
        events=tuple(EVENTS),
        refusals=(*KEYED, errors.StreamNotFound, errors.StreamLost, errors.NotReady),
        headers=("Last-Event-ID",),
    ),
    Operation(
        method="delete",
        path="/v1/streams/{id}",
        tag="Streams",
        summary="Cancel a stream",
        answers=(Answer(204, "It has ended."),),
        refusals=(*KEYED, errors.StreamNotFound, errors.NotReady),
    ),
    _posting(
        "/v1/chat/completions",
        "OpenAI",
        "Answer a conversation",
        ChatRequest,
        ("ChatEvents",),
        _whole(answers.ChatCompletion),
    ),
    _posting(
        "/v1/completions", "OpenAI", "Continue a text", TextRequest, ("TextEvents",), _whole(answers.TextCompletion)
    ),
    _getting(
        "/v1/models",
        "OpenAI",
        "The loaded model",
        Answer(200, "One or more names of it.", answers.Models),
        refusals=(*KEYED, errors.NotReady),
    ),
    _getting(
        "/v1/models/{name}",
        "OpenAI",
        "The loaded model by a name",
        Answer(200, "The model.", answers.Model),
        refusals=(*KEYED, errors.ModelNotFound, errors.NotReady),
    ),
    _posting(
        "/completion",
        "llama-server",
        "Continue a text",
        CompletionRequest,
        ("CompletionEvents",),
        _whole(CompletionEnd),
    ),
    _getting(
        "/props",
        "llama-server",
        "What is loaded, and the defaults",
        Answer(200, "The properties.", Props),
        refusals=(*KEYED, errors.NotReady),
    ),
    _getting(
        "/health",
        "Operators",
        "Whether it is ready, as llama-server says it",
        Answer(200, "It is.", answers.Health),
        refusals=(*ANY, errors.NotReady),
    ),
    _getting("/healthz", "Operators", "Whether the front answers at all", Answer(200, "It does.", answers.Healthy)),
    _getting(
        "/readyz",
        "Operators",
        "Whether new streams should be sent here",
        Answer(200, "They should.", answers.Readiness),
        Answer(503, "They should not, and why.", answers.Readiness),
    ),
    _getting("/version", "Operators", "The service's version, as vLLM says it", Answer(200, "It.", answers.Version)),
    _getting("/metrics", "Operators", "Prometheus metrics", Answer(200, "The exposition.", kind=TEXT)),
    _getting("/", "Pages", "The demo page", Answer(200, "The page.", kind=HTML)),
    _getting("/docs", "Pages", "This description, to read", Answer(200, "The page.", kind=HTML)),
    _getting("/openapi.json", "Pages", "This description", Answer(200, "An OpenAPI 3.1 document.", dict[str, Any])),
)
