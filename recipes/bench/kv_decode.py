"""How fast the pages that a layer sees are decoded, against how fast memory is copied."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from longlive_core.float8 import Float8PageCodec
from longlive_core.kv_cache import Int8PageCodec
from longlive_core.nvfp4 import NVFP4PageCodec, ScaleRule
from longlive_recipes.bench.checks import require
from longlive_recipes.bench.options import BenchOptions, Rows
from longlive_recipes.bench.timing import median_seconds

Codec = NVFP4PageCodec | Float8PageCodec | Int8PageCodec

CODECS: dict[str, Codec] = {
    "nvfp4 four_over_six_mse": NVFP4PageCodec(),
    "nvfp4 amax_6": NVFP4PageCodec(rule=ScaleRule.AMAX_6),
    "fp8": Float8PageCodec(),
    "int8": Int8PageCodec(),
}
MAX_ERROR = {"nvfp4": 1 / 5, "fp8": 1 / 16, "int8": 1 / 100}
"""Most that a decoded number may be off, of the largest of its page, by the codec's name."""


class Layer:
    """One layer's keys and values, encoded, and the room that they are decoded into."""

    def __init__(self, name: str, device: torch.device, options: BenchOptions) -> None:
        self.codec = CODECS[name]
        shape = (1, options.page_tokens, options.heads, options.head_dim)
        generator = torch.Generator(device).manual_seed(0)
        self.pages = [
            torch.randn(shape, generator=generator, device=device, dtype=torch.float32).to(
                self.codec.dtype
            )
            for _ in "kv"
        ]
        self.slots = tuple(range(options.pages))
        self.stores: list[Any] = [self.codec.allocate(options.pages, shape, device) for _ in "kv"]
        for slot in self.slots:
            self.write(slot)
        room = (2, 1, options.pages * shape[1], *shape[2:])
        self.outs = list(torch.empty(room, dtype=self.codec.dtype, device=device))

    def write(self, slot: int) -> None:
        """Encode a page of keys and one of values."""
        for store, page in zip(self.stores, self.pages, strict=True):
            self.codec.write(store, slot, page)

    def read(self, backend: str = "auto") -> list[Tensor]:
        """Decode all pages of both."""
        return replace(self.codec, backend=backend).read(self.stores, self.slots, self.outs)

    @property
    def bytes_read(self) -> int:
        return sum(x.nbytes for store in self.stores for x in self.codec.tensors(store).values())

    @property
    def bytes_written(self) -> int:
        return sum(out.nbytes for out in self.outs)


@torch.no_grad()
def check_kv_decode(device: torch.device, options: BenchOptions) -> str:
    """What is timed gives the reference's bits, which are near what was encoded."""
    for name in CODECS:
        layer = Layer(name, device, options)
        got = [out.clone() for out in layer.read()]
        for kind, out, want in zip("kv", got, layer.read("reference"), strict=True):
            require(torch.equal(out, want), f"{name}: {kind} differs from the reference")
        worst, most = _error(layer), MAX_ERROR[str(layer.codec.to_dict()["name"])]
        require(
            worst <= most, f"{name}: {worst:.3g} of the largest number off, more than {most:.3g}"
        )
    return "the bits of the plain-PyTorch reference, near what was encoded"


@torch.no_grad()
def measure_kv_decode(device: torch.device, options: BenchOptions) -> Rows:
    """A copy of as many decoded bytes first: what memory can do; then each codec.

    What Python takes to launch them is in ``milliseconds_called`` and in the encoding alone.
    """
    room = (2, options.pages * options.page_tokens, options.heads, options.head_dim)
    source = torch.randn(room, device=device, dtype=torch.float32).bfloat16()
    target = torch.empty_like(source)

    def copy() -> Tensor:
        return target.copy_(source)

    seconds = median_seconds(copy, device, options.repeats, captured=True)
    copied = source.nbytes + target.nbytes
    rows = {
        "copy": {
            "mib_read": source.nbytes / 2**20,
            "mib_written": target.nbytes / 2**20,
            "milliseconds": seconds * 1e3,
            "milliseconds_called": median_seconds(copy, device, options.repeats) * 1e3,
            "gigabytes_per_second": copied / seconds / 1e9,
            "share_of_copy": 1.0,
        }
    }
    for name in CODECS:
        layer = Layer(name, device, options)
        seconds = median_seconds(layer.read, device, options.repeats, captured=True)
        speed = (layer.bytes_read + layer.bytes_written) / seconds / 1e9
        encoding = median_seconds(partial(layer.write, 0), device, options.repeats)
        rows[name] = {
            "mib_read": layer.bytes_read / 2**20,
            "mib_written": layer.bytes_written / 2**20,
            "milliseconds": seconds * 1e3,
            "milliseconds_called": median_seconds(layer.read, device, options.repeats) * 1e3,
            "gigabytes_per_second": speed,
            "share_of_copy": speed / rows["copy"]["gigabytes_per_second"],
            "milliseconds_to_encode_a_page": encoding * 1e3,
        }
    return rows


def kv_decode_backends(device: torch.device, options: BenchOptions) -> list[str]:
    """What decodes each codec's pages on this device."""
    return [f"{name}: {codec.receipt(device)}" for name, codec in CODECS.items()]


def _error(layer: Layer) -> float:
    """The largest distance of a decoded number from its original, of the page's largest."""
    tokens = layer.pages[0].shape[1]
    worst = [
        float((part.float() - page.float()).abs().max() / page.float().abs().max())
        for out, page in zip(layer.outs, layer.pages, strict=True)
        for part in out.split(tokens, dim=1)
    ]
    return max(worst)
