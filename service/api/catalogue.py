"""Every request field that other servers document, and what becomes of it here: done, refused by name, or ignored.

Done is what the models that validate have (params.py and those next to it), refused what unsupported.py lists. Any
other field is ignored, as unknown ones are: IGNORED says why those that are documented change no answer. docs/fields.md
is made of this file.
"""

from __future__ import annotations

from collections.abc import Iterator

from service.api.llama_server_params import CompletionRequest
from service.api.openai_params import ChatRequest, TextRequest
from service.api.params import Params, StreamRequest
from service.api.unsupported import HARMLESS, HARMLESS_WITH, SEVERAL

MODELS: dict[str, type[Params]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": TextRequest,
    "/completion": CompletionRequest,
    "/stream": StreamRequest,
}
REFUSED = frozenset({*HARMLESS, *SEVERAL, *HARMLESS_WITH})

# fmt: off
# (lists, not code: as many names a line as fit)
_SAMPLERS = (
    "temperature", "dynatemp_range", "dynatemp_exponent", "top_k", "top_p", "min_p", "typical_p", "top_n_sigma",
    "xtc_probability", "xtc_threshold", "repeat_penalty", "repeat_last_n", "presence_penalty", "frequency_penalty",
    "dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers", "mirostat",
    "mirostat_tau", "mirostat_eta", "adaptive_target", "adaptive_decay", "logit_bias", "grammar", "json_schema",
    "samplers", "seed", "ignore_eos", "min_keep",
)

# Server -> the fields of its generating routes. From: OpenAI's API reference; llama.cpp's tools/server, README.md and
# what its routes read; vLLM's chat_completion and completion protocol.py; Ollama's api.md and api/types.go.
DOCUMENTED: dict[str, tuple[str, ...]] = {
    "OpenAI chat": (
        "messages", "model", "audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs",
        "max_completion_tokens", "max_tokens", "metadata", "modalities", "moderation", "n", "parallel_tool_calls",
        "prediction", "presence_penalty", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention",
        "reasoning_effort", "response_format", "safety_identifier", "seed", "service_tier", "stop", "store", "stream",
        "stream_options", "temperature", "tool_choice", "tools", "top_logprobs", "top_p", "user", "verbosity",
        "web_search_options",
    ),
    "OpenAI completions": (
        "prompt", "model", "best_of", "echo", "frequency_penalty", "logit_bias", "logprobs", "max_tokens", "n",
        "presence_penalty", "seed", "stop", "stream", "stream_options", "suffix", "temperature", "top_p", "user",
    ),
    "llama-server": (
        *_SAMPLERS, "prompt", "messages", "model", "stream", "stream_options", "stop", "n_predict", "max_tokens",
        "max_completion_tokens", "n_indent", "n_keep", "n_discard", "n_cmpl", "n", "n_cache_reuse", "n_probs",
        "logprobs", "top_logprobs", "post_sampling_probs", "t_max_predict_ms", "id_slot", "cache_prompt",
        "return_tokens", "timings_per_token", "return_progress", "sse_ping_interval", "response_fields", "lora",
        "backend_sampling", "speculative.n_max", "speculative.n_min", "speculative.p_min", "speculative.type",
        "grammar_lazy", "grammar_triggers", "preserved_tokens", "chat_template_kwargs", "add_generation_prompt",
        "continue_final_message", "response_format", "tools", "tool_choice", "parallel_tool_calls", "parse_tool_calls",
        "chat_format", "reasoning_format", "reasoning_effort", "reasoning_control", "reasoning_budget_tokens",
        "reasoning_budget_message", "thinking_budget_tokens", "generation_prompt", "multimodal_data", "echo", "suffix",
        "best_of",
    ),
    "vLLM": (
        "use_beam_search", "top_k", "min_p", "repetition_penalty", "watermarking", "length_penalty", "early_stopping",
        "stop_token_ids", "include_stop_str_in_output", "ignore_eos", "min_tokens", "skip_special_tokens",
        "spaces_between_special_tokens", "truncate_prompt_tokens", "truncation_side", "prompt_logprobs",
        "logprob_token_ids", "allowed_token_ids", "bad_words", "echo", "add_generation_prompt",
        "continue_final_message", "add_special_tokens", "documents", "chat_template", "chat_template_kwargs",
        "media_io_kwargs", "mm_processor_kwargs", "structured_outputs", "guided_json", "guided_regex", "guided_choice",
        "guided_grammar", "guided_whitespace_pattern", "structural_tag", "response_format", "priority", "request_id",
        "session_id",
        "return_tokens_as_token_ids", "return_token_ids", "return_token_offsets", "return_prompt_text",
        "return_mm_kwargs", "routed_experts_prompt_start", "cache_salt", "kv_transfer_params", "ec_transfer_params",
        "vllm_xargs", "repetition_detection", "stream_interval", "thinking_token_budget", "include_reasoning",
        "prompt_embeds", "logits_processors",
    ),
    "Ollama": (
        "model", "prompt", "messages", "system", "stream", "options", "format", "think", "template", "raw", "images",
        "context", "suffix", "tools", "keep_alive", "logprobs", "top_logprobs", "num_predict", "seed", "temperature",
        "top_k", "top_p", "min_p", "typical_p", "tfs_z", "repeat_last_n", "repeat_penalty", "presence_penalty",
        "frequency_penalty", "mirostat", "mirostat_tau", "mirostat_eta", "penalize_newline", "stop", "num_keep",
        "num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "numa", "low_vram", "f16_kv", "logits_all",
        "vocab_only", "use_mmap", "use_mlock", "draft_num_predict",
    ),
    "others": ("enable_thinking",),
}

# Why it changes no answer -> the fields.
IGNORED: dict[str, tuple[str, ...]] = {
    "it is for billing, storage or tracing": (
        "user", "metadata", "store", "service_tier", "safety_identifier", "request_id", "session_id",
    ),
    "it is about where a prompt's computed prefix is kept": (
        "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "cache_salt", "id_slot",
        "n_cache_reuse",
    ),
    "it is about the order of requests, which is fair by API key": ("priority",),
    "a context that is full ends the answer: none is shifted": ("n_keep", "n_discard", "num_keep"),
    "draft tokens and where they are sampled change no text": (
        "speculative.n_max", "speculative.n_min", "speculative.p_min", "speculative.type", "backend_sampling",
        "draft_num_predict",
    ),
    "it says how events are sent, or adds to them": (
        "timings_per_token", "return_progress", "sse_ping_interval", "stream_interval",
    ),
    "it says how a model is loaded, which the operator sets": (
        "keep_alive", "num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "numa", "low_vram", "f16_kv",
        "logits_all", "vocab_only", "use_mmap", "use_mlock",
    ),
    "it belongs to a field that is refused": (
        "parallel_tool_calls", "parse_tool_calls", "chat_format", "reasoning_budget_message",
        "routed_experts_prompt_start",
    ),
    "control tokens are shown without spaces of their own, with it or without": ("spaces_between_special_tokens",),
    "it is for vLLM's routes that only render a prompt": ("return_token_offsets", "return_mm_kwargs"),
}
# fmt: on


def names() -> list[str]:
    """Of all fields, in alphabetical order."""
    documented = {name for names in DOCUMENTED.values() for name in names}
    return sorted(documented.union(REFUSED, *(model.model_fields for model in MODELS.values())))


def routes_of(name: str) -> list[str]:
    """The routes that take this field."""
    return [route for route, model in MODELS.items() if name in model.model_fields]


def refused_by(model: type[Params]) -> list[str]:
    """The fields that it lacks, of those that would change the answer."""
    return sorted(REFUSED - set(model.model_fields))


def why_ignored(name: str) -> str:
    """Why this field changes no answer; "": it is not known to be ignored."""
    return next((why for why, ignored in IGNORED.items() if name in ignored), "")


def documented_by(name: str) -> list[str]:
    """The servers that have this field."""
    return [server for server, documented in DOCUMENTED.items() if name in documented]


def table() -> Iterator[str]:
    """The lines of docs/fields.md's table."""
    yield "| field | here | documented by |"
    yield "|---|---|---|"
    for name in names():
        yield f"| `{name}` | {_fate(name)} | {', '.join(documented_by(name)) or 'Rill'} |"


def _fate(name: str) -> str:
    if routes := routes_of(name):
        return "done" if len(routes) == len(MODELS) else f"done: {', '.join(f'`{route}`' for route in routes)}"
    if name in REFUSED:
        return "refused by name, unless the value is a default"
    return f"ignored: {why_ignored(name)}"
