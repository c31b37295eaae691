"""The network: llama's architecture as llama.cpp computes it, rotary pairs interleaved."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """Sizes; every matrix row is a multiple of 256 wide, so any quantization fits."""

    n_vocab: int = 2048
    n_embd: int = 256
    n_layer: int = 4
    n_head: int = 4
    n_head_kv: int = 2
    n_ff: int = 768
    n_ctx: int = 1024
    rope_base: float = 10_000.0
    rms_eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head  # 64: the smallest head that every flash attention kernel knows


def rotary(shape: Shape, n: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines, (n, head_dim / 2)."""
    inverse = shape.rope_base ** (-torch.arange(0, shape.head_dim, 2) / shape.head_dim)
    angle = torch.outer(torch.arange(n).float(), inverse)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(batch, head, position, head_dim), turned by position in pairs (0, 1), (2, 3), …"""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return turned.flatten(-2).type_as(x)


class Norm(nn.Module):  # type: ignore[misc]  # torch is untyped to mypy: pyproject.toml
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape.n_embd))
        self.eps = shape.rms_eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight, self.eps)


class Block(nn.Module):  # type: ignore[misc]
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, kv = shape.n_embd, shape.n_head_kv * shape.head_dim
        self.shape = shape
        self.attn_norm, self.ffn_norm = Norm(shape), Norm(shape)
        self.q, self.k, self.v = (nn.Linear(width, n, bias=False) for n in (width, kv, kv))
        self.out = nn.Linear(width, width, bias=False)
        self.gate, self.up = (nn.Linear(width, shape.n_ff, bias=False) for _ in range(2))
        self.down = nn.Linear(shape.n_ff, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        heads = (-1, self.shape.head_dim)
        h = self.attn_norm(x)
        q, k, v = (linear(h).unflatten(-1, heads).transpose(1, 2) for linear in (self.q, self.k, self.v))
        groups = self.shape.n_head // self.shape.n_head_kv
        k, v = rotate(k, cos, sin).repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        mixed = F.scaled_dot_product_attention(rotate(q, cos, sin), k, v, attn_mask=mask, is_causal=mask is None)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        h = self.ffn_norm(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Starter(nn.Module):  # type: ignore[misc]
    """Token ids (batch, position) to logits."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed = nn.Embedding(shape.n_vocab, shape.n_embd)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.n_layer))
        self.norm = Norm(shape)
        self.head = nn.Linear(shape.n_embd, shape.n_vocab, bias=False)
        self._start()

    def _start(self) -> None:
        nn.init.normal_(self.embed.weight)  # as large as what the blocks add: smaller, it drowns in them
        for name, weight in self.named_parameters():
            if weight.ndim == 2 and name != "embed.weight":
                nn.init.normal_(weight, std=0.5 * weight.shape[1] ** -0.5)
            if name.endswith(("out.weight", "down.weight", "head.weight")):
                nn.init.zeros_(weight)  # every block starts as the identity

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        cos, sin = rotary(self.shape, ids.shape[1])
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, cos, sin, mask)
        return self.head(self.norm(x))
