"""A compiled model over a paged cache, and over keys and values that are concatenated.

    OMP_NUM_THREADS=2 python benchmarks/compiled_cache.py

The same blocks, compiled whole by inductor, with the same weights and the same window of recent
pages. Every kind takes its turn at each block of video, so that whatever else the machine does
falls on all. Where outputs differ, or a kind needs more than two graphs, nothing is written.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from longlive_core.attention import attention
from longlive_core.float8 import Float8PageCodec
from longlive_core.kv_cache import (
    CacheLayout,
    Int8PageCodec,
    PageCodec,
    PagedKVCache,
    PlainCodec,
    Window,
)
from longlive_core.nvfp4 import NVFP4PageCodec
from longlive_recipes.bench.options import Rows
from longlive_recipes.bench.record import stamped, table, write

CODECS: dict[str, PageCodec] = {
    "paged, plain": PlainCodec(torch.float32),
    "paged, int8": Int8PageCodec(dtype=torch.float32),
    "paged, fp8": Float8PageCodec(dtype=torch.float32),
    "paged, nvfp4": NVFP4PageCodec(dtype=torch.float32),
}
NEAR = {"paged, plain": 1e-5, "paged, int8": 0.02, "paged, fp8": 0.05, "paged, nvfp4": 0.15}
"""Most that an output may be off, of its norm, by what rounds the past."""
MOST_GRAPHS = 2
ABOUT = (
    "One block of video through a few transformer blocks, compiled whole: denoising steps and the "
    "clean pass, under a full window, begin and commit included. The concatenated cache keeps the "
    "window's past in one tensor a layer, put together with the block's own at each step and cut "
    "at each block. Times are medians over blocks; the share of the concatenated one's time "
    "is the median over blocks, each compared with its own neighbor. Encoded pages are decoded at "
    "each step: on a CPU by plain PyTorch, which takes time for memory. Graphs are those that a "
    "kind adds: all paged ones share theirs."
)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is timed: blocks of ``tokens``, a window of ``pages`` of them, float32."""

    layers: int = 2
    heads: int = 8
    head_dim: int = 64
    tokens: int = 256
    pages: int = 4
    samples: int = 1
    steps: int = 4
    blocks: int = 15

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.heads * self.head_dim


class Memory(Protocol):
    """What a block of the model asks of a cache's layer."""

    def write(self, k: Tensor, v: Tensor) -> None: ...
    def read(self) -> tuple[Tensor, Tensor]: ...


class Concatenated:
    """A layer's past in one tensor of keys and one of values."""

    def __init__(self, sizes: Sizes) -> None:
        self.most = (sizes.pages - 1) * sizes.tokens
        none = torch.zeros(sizes.samples, 0, sizes.heads, sizes.head_dim)
        self.past = self.own = (none, none)

    def write(self, k: Tensor, v: Tensor) -> None:
        self.own = (k, v)

    def read(self) -> tuple[Tensor, Tensor]:
        return torch.cat((self.past[0], self.own[0]), 1), torch.cat((self.past[1], self.own[1]), 1)

    def keep(self) -> None:
        """The last pass is what stays."""
        keys, values = (x[:, -self.most :].contiguous() for x in self.read())
        self.past = (keys, values)


class Block(nn.Module):
    """Attention over a memory, and a feed-forward network."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.shape = (3, sizes.heads, sizes.head_dim)
        self.norm, self.qkv = nn.LayerNorm(sizes.width), nn.Linear(sizes.width, 3 * sizes.width)
        self.out = nn.Linear(sizes.width, sizes.width)
        self.rest = nn.Sequential(
            nn.LayerNorm(sizes.width),
            nn.Linear(sizes.width, 4 * sizes.width),
            nn.GELU(),
            nn.Linear(4 * sizes.width, sizes.width),
        )
        self.memory: Memory | None = None

    def forward(self, x: Tensor) -> Tensor:
        assert self.memory is not None
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, self.shape).unbind(2)
        self.memory.write(k, v)
        k, v = self.memory.read()
        x = x + self.out(attention(q, k, v).flatten(2))
        return x + self.rest(x)


class Kind:
    """A model with one kind of cache; a call makes one block of video."""

    def __init__(self, sizes: Sizes, codec: PageCodec | None, backend: str) -> None:
        torch.manual_seed(0)
        self.sizes = sizes
        blocks = [Block(sizes) for _ in range(sizes.layers)]
        self.cache: PagedKVCache | None = None
        self.layers: list[Concatenated] = []
        if codec is None:
            self.layers = [Concatenated(sizes) for _ in blocks]
        else:
            layout = CacheLayout(
                layers=sizes.layers,
                heads=sizes.heads,
                head_dim=sizes.head_dim,
                tokens_per_page=sizes.tokens,
                samples=sizes.samples,
            )
            window = Window(pages=sizes.pages, sink=0, shot_sink=0)
            self.cache = PagedKVCache(layout, window, codec)
        for layer, block in enumerate(blocks):
            block.memory = self.layers[layer] if self.cache is None else self.cache.layer(layer)
        self.model = torch.compile(nn.Sequential(*blocks), fullgraph=True, backend=backend)

    @torch.no_grad()
    def __call__(self, number: int, x: Tensor) -> Tensor:
        if self.cache is not None:
            self.cache.begin_block(number)
        for _ in range(self.sizes.steps):
            self.model(x)
        if self.cache is not None:
            self.cache.begin_clean_pass()
        out = self.model(x)
        for layer in self.layers:
            layer.keep()
        if self.cache is not None:
            self.cache.commit()
        return out


def measure(sizes: Sizes, backend: str = "inductor") -> Rows:
    """A row for each kind. Raises AssertionError where outputs or graphs are wrong."""
    codecs = {"concatenated": None, **CODECS}
    kinds, taken, graphs = {}, {name: [] for name in codecs}, {}
    warm = sizes.pages + 2
    inputs = [torch.randn(sizes.samples, sizes.tokens, sizes.width) for _ in range(warm)]
    expected: list[Tensor] = []
    for name, codec in codecs.items():
        counters.clear()
        kinds[name] = Kind(sizes, codec, backend)
        got = [kinds[name](number, x) for number, x in enumerate(inputs)]
        graphs[name] = counters["stats"]["unique_graphs"]
        expected = expected or got
        for out, want in zip(got, expected, strict=True):
            error = float((out - want).norm() / want.norm())
            assert error <= NEAR.get(name, 0), f"{name}: outputs are {error:.3g} off"
        assert codec is None or graphs[name] <= MOST_GRAPHS, f"{name}: {graphs[name]} graphs"
    for number in range(warm, warm + sizes.blocks):
        x = torch.randn(sizes.samples, sizes.tokens, sizes.width)
        for name, kind in kinds.items():
            began = time.perf_counter()
            kind(number, x)
            taken[name].append(time.perf_counter() - began)
    return {
        name: {
            "milliseconds_per_block": median(times) * 1e3,
            "of_the_concatenated": median(
                own / other for own, other in zip(times, taken["concatenated"], strict=True)
            ),
            "graphs": graphs[name],
        }
        for name, times in taken.items()
    }


def main(arguments: Sequence[str] | None = None) -> Path:
    """Measure, store the record and its table; returns the record's path."""
    parser = argparse.ArgumentParser(description=__doc__)
    for one in fields(Sizes):
        parser.add_argument(f"--{one.name.replace('_', '-')}", type=int, default=one.default)
    parser.add_argument("--backend", default="inductor", help="torch.compile's")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    given = vars(parser.parse_args(arguments))
    folder, backend, sizes = given.pop("results"), given.pop("backend"), Sizes(**given)
    found: dict[str, Any] = {
        "benchmark": "compiled_cache",
        "about": ABOUT,
        "checked": "every output is the concatenated cache's, as near as its codec rounds the "
        f"past; at most {MOST_GRAPHS} graphs",
        "rows": measure(sizes, backend),
    }
    usual = asdict(Sizes())
    changed = [
        f"--{name.replace('_', '-')} {size}"
        for name, size in asdict(sizes).items()
        if size != usual[name]
    ]
    command = " ".join(["python benchmarks/compiled_cache.py", *changed])
    record = stamped(found, {**asdict(sizes), "backend": backend}, torch.device("cpu"), command)
    return write(record, table(record), folder, "compiled_cache_cpu")[0]


if __name__ == "__main__":
    print(main())
