"""The wire contract of llama-server's own routes: /completion's body and settings, and /props. Pure."""

from __future__ import annotations

from typing import Any

from msgspec.structs import asdict

from service.api.params import Params
from service.api.prompts import Prompt
from service.api.unsupported import SAMPLERS
from service.protocol.frames import Ready
from service.protocol.sampling import N_SEEDS, Sampling
from service.streams.request import GenerationRequest


class CompletionRequest(Params):
    """POST /completion."""

    stream: bool | None = None
    prompt: Prompt

    def to_generation(self) -> GenerationRequest:
        """Raises Unsupported."""
        self.refuse_effort()
        if isinstance(self.prompt, str):
            return self.generation(text=self.prompt)
        return self.generation(tokens=tuple(self.prompt))

    def settings(self, generation: GenerationRequest) -> dict[str, Any]:
        """llama-server's `generation_settings`, without the seed."""
        found = generation_settings(generation.sampling)
        limit = -1 if generation.max_tokens is None else generation.max_tokens
        asked = {"max_tokens": limit, "n_predict": limit, "ignore_eos": generation.ignore_eos}
        return found | asked | {"stream": bool(self.stream)}


def generation_settings(sampling: Sampling) -> dict[str, Any]:
    """How the next token is chosen, by llama-server's names. Its numbers only: no text that a client wrote is kept when
    its stream has ended."""
    numbers = {name: value for name, value in asdict(sampling).items() if isinstance(value, int | float)}
    return numbers | {"samplers": list(SAMPLERS)}


def props(ready: Ready, name: str, version: str) -> dict[str, Any]:
    """GET /props: what is loaded. The model's file is named, but not where it is."""
    defaults = (
        generation_settings(Sampling(seed=0))
        | ready.sampling
        | {
            "seed": N_SEEDS,  # llama.cpp's way to say: a random one
            "max_tokens": -1,
            "n_predict": -1,
            "ignore_eos": False,
            "stream": False,
        }
    )
    return {
        "default_generation_settings": {"params": defaults, "n_ctx": ready.n_ctx_seq},
        "total_slots": ready.n_seq,
        "model_alias": name,
        "model_path": ready.model,
        "modalities": {"vision": False, "audio": False},
        "endpoint_slots": False,
        "endpoint_props": False,
        "endpoint_metrics": True,
        "chat_template": ready.chat_template,
        "bos_token": ready.bos,
        "eos_token": ready.eos,
        "build_info": f"rill-{version}-{ready.llama_cpp}",
        "is_sleeping": False,
    }
