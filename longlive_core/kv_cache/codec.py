"""How a page of keys or values is stored. The cache does not know; a codec does.

A *store* holds the pages of one layer's keys, or of its values. Two kinds of codec fit:

- One that keeps pages as they are (``PlainCodec``). The block being made writes into its own slot
  at every step, and a window is read where it lies.
- One that encodes (to eight or four bits). The block being made stays in the cache's *workspace*,
  in the type that attention reads, and is encoded once, on its clean pass. Past pages are decoded
  into the workspace for each read. One workspace serves all layers.

``workspace_pages`` tells the cache which kind it has.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from longlive_core.checks import shown

PageShape = tuple[int, int, int, int]  # samples, tokens, heads, head_dim
Page = Float[Tensor, "samples tokens heads head_dim"]


@runtime_checkable
class PageCodec(Protocol):
    """Stores pages of tokens in a format of its own; a store is opaque to the cache."""

    @property
    def dtype(self) -> torch.dtype:
        """The type of what is read."""

    def workspace_pages(self, slots: int) -> int:
        """Pages of decoded tokens the cache keeps for reading: 0, or ``slots`` if this encodes."""

    def page_bytes(self, shape: PageShape) -> int:
        """The bytes that one page takes in a store, scales and all."""

    def allocate(self, slots: int, shape: PageShape, device: torch.device) -> Any:
        """A store with room for ``slots`` pages of ``shape``."""

    def write(self, store: Any, slot: int, page: Page) -> None:
        """Put ``page`` into ``slot``, in place. Each sample is encoded on its own."""

    def read(
        self, stores: Sequence[Any], slots: Sequence[int], outs: Sequence[Page] | None
    ) -> list[Page]:
        """Of each store the pages in these slots, the tokens of one after those of another.

        A layer's keys and values are read together: a GPU decodes both in one launch. ``outs`` are
        the parts of the workspace to decode into and to return; None without a workspace.
        """

    def tensors(self, store: Any) -> dict[str, Tensor]:
        """Everything that a store consists of, by name: what its memory is counted by."""

    def page(self, store: Any, slot: int) -> dict[str, Tensor]:
        """Everything that is stored of one page, by name, as views: for copies and snapshots."""

    def to_dict(self) -> dict[str, str | int]:
        """A name, and all that decides what the bytes of a store mean: a snapshot keeps it."""


class PlainCodec:
    """Keeps pages as they are. The reference for every other codec.

    A store is a tensor [samples, slots, tokens, heads, head_dim], so that neighboring slots are
    read as a view.
    """

    def __init__(self, dtype: torch.dtype = torch.bfloat16) -> None:
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point or dtype.itemsize < 2:
            raise ValueError(
                f"PlainCodec keeps pages in a floating type that attention reads, got "
                f"{shown(dtype)}: use torch.bfloat16, or a codec that encodes."
            )
        self.dtype = dtype

    def __repr__(self) -> str:
        return f"PlainCodec({self.dtype})"

    def workspace_pages(self, slots: int) -> int:
        """0: pages are read where they are stored."""
        return 0

    def page_bytes(self, shape: PageShape) -> int:
        """The bytes that one page takes in a store."""
        samples, tokens, heads, head_dim = shape
        return samples * tokens * heads * head_dim * self.dtype.itemsize

    def allocate(self, slots: int, shape: PageShape, device: torch.device) -> Tensor:
        """A tensor with room for ``slots`` pages, not yet written."""
        samples, *page = shape
        return torch.empty(samples, slots, *page, dtype=self.dtype, device=device)

    def write(self, store: Tensor, slot: int, page: Page) -> None:
        """Copy ``page`` into ``slot``, rounding to the codec's type, unless it lies there."""
        there = store[:, slot]
        lies = (page.data_ptr(), page.stride(), page.dtype)
        if lies != (there.data_ptr(), there.stride(), there.dtype):
            there.copy_(page)

    def read(
        self, stores: Sequence[Tensor], slots: Sequence[int], outs: Sequence[Page] | None = None
    ) -> list[Page]:
        """Views of the stores where the slots are consecutive, else gathered copies."""
        first, count = slots[0], len(slots)
        if tuple(slots) == tuple(range(first, first + count)):
            return [store[:, first : first + count].flatten(1, 2) for store in stores]
        return [torch.cat([store[:, slot] for slot in slots], dim=1) for store in stores]

    def tensors(self, store: Tensor) -> dict[str, Tensor]:
        """The one tensor that a store is."""
        return {"pages": store}

    def to_dict(self) -> dict[str, str | int]:
        """The codec's name, and the type that pages are kept in."""
        return {"name": "plain", "dtype": str(self.dtype).removeprefix("torch.")}

    def page(self, store: Tensor, slot: int) -> dict[str, Tensor]:
        """A view of the page in ``slot``."""
        return {"page": store[:, slot]}
