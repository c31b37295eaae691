"""Trains the starter: `python -m deploy.starter.train --out DIR`. Seeded; needs torch.

The rate is warmed up, held, and let down over the last `--decay` steps, so a checkpoint of the held
part can be resumed with a nearer end: an early release costs only its own descent.
"""

import argparse
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deploy.starter import corpus, tokenizer
from deploy.starter.model import Shape, Starter
from deploy.starter.tokenizer import Tokenizer

N_TOKENS = 2048  # a batch: small, because here steps teach more than smooth gradients do
N_SAMPLE = 8000  # documents that the tokenizer is trained on
CHUNK = 4000  # documents drawn, packed and shuffled together: about 320 batches
N_FIRST = 7  # chunks with corpus.SHARES, before corpus.LATER


Place = tuple[int, int]  # how many chunks, and how many batches of the next one, are behind
Batch = tuple[Tensor, Tensor, Tensor]
Optimizers = list[torch.optim.Optimizer]
Row = tuple[np.ndarray, np.ndarray, np.ndarray]  # ids, weights, document numbers; (length,) each


def pack(documents: list[corpus.Encoded], length: int) -> list[Row]:
    """Fills rows of `length` + 1 tokens with whole documents, best fit; what is left over is padding."""
    rows: list[list[corpus.Encoded]] = []
    by_room: list[list[int]] = [[] for _ in range(length + 2)]
    for document in sorted(documents, key=lambda d: -len(d.ids)):
        n = len(document.ids)
        room = next((room for room in range(n, length + 2) if by_room[room]), length + 1)
        if not by_room[room]:
            by_room[room].append(len(rows))
            rows.append([])
        at = by_room[room].pop()
        rows[at].append(document)
        by_room[room - n].append(at)
    packed = []
    for row in rows:
        ids, weights = np.zeros(length + 1, np.int64), np.zeros(length + 1, np.float32)
        number = np.full(length + 1, -1, np.int64)
        start = 0
        for index, document in enumerate(row):
            end = start + len(document.ids)
            ids[start:end], weights[start:end], number[start:end] = document.ids, document.weights, index
            weights[start] = 0  # nothing comes before a document's first token
            start = end
        packed.append((ids, weights, number))
    return packed


def by_length(documents: list[corpus.Encoded]) -> list[tuple[int, list[corpus.Encoded]]]:
    """Row lengths and what goes there: short rows spare attention its square, small ones fill the gaps."""
    found: dict[int, list[corpus.Encoded]] = {256: [], 512: [], 1024: []}
    for index, document in enumerate(documents):
        n = len(document.ids)
        filler = (1024 if index % 29 == 0 else 512 if index % 3 == 0 else 256) if n < 120 else 256
        found[next(length for length in (filler, 512, 1024) if n <= length)].append(document)
    return list(found.items())


def batches(tokens: Tokenizer, seed: int, at: Place) -> Iterator[tuple[Place, Batch]]:
    """Batches for ever from a place on, each with the place after it; long chats get rows of 1,024."""
    chunk, done = at
    while True:
        shares = corpus.SHARES if chunk < N_FIRST else corpus.LATER
        documents = [corpus.encode(d, tokens) for d in corpus.documents(f"{seed}:{chunk}", CHUNK, shares)]
        rng = np.random.default_rng([seed, chunk])
        out: list[Batch] = []
        for length, some in by_length(documents):
            rows = pack(some, length)
            order = rng.permutation(len(rows))
            per = N_TOKENS // length
            for start in range(0, len(rows) - per + 1, per):
                chosen = [rows[i] for i in order[start : start + per]]
                ids, weights, number = (torch.from_numpy(np.stack(part)) for part in zip(*chosen, strict=True))
                out.append((ids, weights, number))
        for place, index in enumerate(rng.permutation(len(out))):
            if place >= done:
                yield (chunk, place + 1), out[index]
        chunk, done = chunk + 1, 0


def loss_of(model: Starter, batch: Batch, total: Tensor) -> Tensor:
    """Cross entropy, weighted, over the batch's `total` weight; a token attends to its own document only."""
    ids, weights, number = batch
    seen = number[:, :-1]
    n = seen.shape[1]
    mask = (seen[:, :, None] == seen[:, None, :]) & torch.ones(n, n, dtype=torch.bool).tril()
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(ids[:, :-1], mask[:, None])
    each = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return (each * weights[:, 1:].flatten()).sum() / total


def bound(optimizer: torch.optim.Optimizer, *_: object) -> None:
    """After a step: Muon's updates of fixed size let weights grow until the blocks drown the embedding. Bounded, the
    blocks add about as much as they are given."""
    with torch.no_grad():
        for weight in optimizer.param_groups[0]["params"]:
            largest = 1.5 * weight.shape[1] ** -0.5
            weight.mul_((largest / weight.square().mean().sqrt()).clamp(max=1.0))


def make_tokenizer(out: Path, seed: int, n_vocab: int) -> Tokenizer:
    path = out / "tokenizer.json"
    if not path.exists():
        sample = corpus.documents(f"{seed}:tokenizer", N_SAMPLE)
        tokenizer.train((text for document in sample for text in document.texts()), n_vocab).save(path)
    return Tokenizer.load(path)


class Trainer:
    """One step on several cores. Each has its own part of the batch, its own gradients, the same weights.

    They meet twice a step. Operators split among threads meet hundreds of times, and on a machine whose
    cores have other work each of these meetings waits for the later one.
    """

    def __init__(self, shape: Shape, rate: float, n_threads: int) -> None:
        torch.set_num_threads(1)
        self.model = Starter(shape)
        self.parts = [self.model, *(Starter(shape) for _ in range(n_threads - 1))]
        for part in self.parts[1:]:
            for own, shared in zip(part.parameters(), self.model.parameters(), strict=True):
                own.data = shared.data
        named = list(self.model.named_parameters())
        matrices = [p for name, p in named if p.ndim == 2 and name.startswith("blocks.")]
        others = [p for name, p in named if p.ndim == 1 or name == "head.weight"]
        self.optimizers: Optimizers = []
        for i in range(n_threads):
            self.optimizers.append(torch.optim.Muon(matrices[i::n_threads], lr=rate, weight_decay=0.0, ns_steps=4))
            self.optimizers[-1].register_step_post_hook(bound)
        for params, lr in (([self.model.embed.weight], rate), (others, rate / 5)):
            self.optimizers.append(torch.optim.AdamW(params, lr=lr, betas=(0.9, 0.95), weight_decay=0.0))
        self.rates = [optimizer.param_groups[0]["lr"] for optimizer in self.optimizers]
        self.pool = ThreadPoolExecutor(n_threads)

    def step(self, batch: Batch, scale: float) -> float:
        """One update at `scale` times the rates; returns the loss."""
        total = batch[1][:, 1:].sum()
        shares = zip(*(torch.chunk(tensor, len(self.parts)) for tensor in batch), strict=True)

        def learn(model: Starter, share: Batch) -> float:
            loss = loss_of(model, share, total)
            loss.backward()
            return float(loss.item())

        losses = list(self.pool.map(learn, self.parts, shares))
        for mine, *theirs in zip(*(part.parameters() for part in self.parts), strict=True):
            for other in theirs:
                mine.grad += other.grad
                other.grad = None
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * scale
        list(self.pool.map(lambda optimizer: optimizer.step(), self.optimizers))
        self.model.zero_grad(set_to_none=True)
        return sum(losses)

    def save(self, path: Path, step: int, place: Place) -> None:
        state = {"step": step, "place": place, "shape": asdict(self.model.shape)}
        state |= {"model": self.model.state_dict(), "optimizers": [o.state_dict() for o in self.optimizers]}
        torch.save(state, path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)

    def load(self, path: Path) -> tuple[int, Place]:
        """Goes back to a checkpoint: its step, and its place in the corpus."""
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        return state["step"], state["place"]


def run(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    shape = Shape()
    tokens = make_tokenizer(args.out, args.seed, shape.n_vocab)
    trainer = Trainer(shape, args.rate, args.threads)
    step, place = trainer.load(args.resume) if args.resume else (0, (0, 0))
    source = batches(tokens, args.seed, place)
    began, first, smooth = time.monotonic(), step, 0.0
    while step < args.steps:
        place, batch = next(source)
        scale = min(1.0, (step + 1) / 100, (args.steps - step) / args.decay)
        loss = trainer.step(batch, scale)
        step += 1
        smooth = 0.98 * smooth + 0.02 * loss if smooth else loss
        if step % 50 == 0:
            seconds = time.monotonic() - began
            speed = round((step - first) * N_TOKENS / seconds)
            print(f"step {step} loss {smooth:.4f} {seconds:.0f} s {speed} tokens/s", flush=True)
        if step % 250 == 0 or step == args.steps:
            trainer.save(args.out / ("final.pt" if step == args.steps else f"step{step}.pt"), step, place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=12000)
    parser.add_argument("--decay", type=int, default=9000, help="the last steps, over which the rate falls")
    parser.add_argument("--rate", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resume", type=Path, help="a checkpoint to go on from")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
