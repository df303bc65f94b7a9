"""Codecs for tests: one that encodes, and one that shows that any store will do."""

from collections.abc import Sequence

import torch
from torch import Tensor

from longlive_core.kv_cache import PageCodec, PageShape


class ByteCodec:
    """Pages as signed bytes with one scale a sample: the shape of every codec that encodes."""

    dtype = torch.float32

    def __repr__(self) -> str:
        return "ByteCodec()"

    def workspace_pages(self, slots: int) -> int:
        return slots

    def page_bytes(self, shape: PageShape) -> int:
        samples, tokens, heads, head_dim = shape
        return samples * (tokens * heads * head_dim + 4)

    def allocate(self, slots: int, shape: PageShape, device: torch.device) -> dict[str, Tensor]:
        samples, *page = shape
        return {
            "codes": torch.empty(slots, samples, *page, dtype=torch.int8, device=device),
            "scales": torch.empty(slots, samples, 1, 1, 1, device=device),
        }

    def write(self, store: dict[str, Tensor], slot: int, page: Tensor) -> None:
        codes, scales = encode(page)
        store["codes"][slot] = codes
        store["scales"][slot] = scales

    def read(
        self, stores: Sequence[dict[str, Tensor]], slots: Sequence[int], outs: Sequence[Tensor]
    ) -> list[Tensor]:
        return [
            out.copy_(
                torch.cat([store["codes"][slot] * store["scales"][slot] for slot in slots], 1)
            )
            for store, out in zip(stores, outs, strict=True)
        ]

    def tensors(self, store: dict[str, Tensor]) -> dict[str, Tensor]:
        return dict(store)

    def to_dict(self) -> dict[str, str | int]:
        return {"name": "bytes of tests"}

    def page(self, store: dict[str, Tensor], slot: int) -> dict[str, Tensor]:
        return {name: x[slot] for name, x in store.items()}


def encode(page: Tensor) -> tuple[Tensor, Tensor]:
    scales = page.abs().amax((1, 2, 3), keepdim=True) / 127
    return (page / scales).round().to(torch.int8), scales


def decoded(codec: PageCodec, page: Tensor) -> Tensor:
    """What an encoding codec makes of a page."""
    store = codec.allocate(1, page.shape, page.device)
    codec.write(store, 0, page)
    return codec.read([store], [0], [torch.empty_like(page, dtype=codec.dtype)])[0]
