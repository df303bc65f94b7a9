"""The block in progress: what was written for it so far, and the window it reads."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from longlive_core.checks import switch
from longlive_core.eight_bit import EncodedHeads
from longlive_core.kv_cache.codec import PageCodec
from longlive_core.kv_cache.coded_windows import CodedWindows
from longlive_core.kv_cache.layout import CacheLayout
from longlive_core.kv_cache.pool import PageReferences
from longlive_core.tensor_checks import present

Block = Float[Tensor, "samples tokens heads head_dim"]
Visible = Float[Tensor, "samples visible_tokens heads head_dim"]


@runtime_checkable
class LayerMemory(Protocol):
    """What one layer asks of a cache."""

    def write(self, layer: int, k: Block, v: Block, *, clean: bool = False) -> None:
        """Take the block's own keys and values."""

    def read(self, layer: int) -> tuple[Visible, Visible]:
        """Keys and values of every page that the block sees."""


class OpenBlock:
    """A page that is being made, among those that it sees.

    Where the codec keeps pages as they are, it lies in the slot it will own; where the codec
    encodes, in the workspace, behind the pages of the past.

    Args:
        page: its number.
        slot: the slot it will own.
        seen: the slots it sees, ascending, its own among them.
        lengths: tokens of the page in each of those slots; fewer than a whole page's are padded.
        references: the places that the cache's pages are stored in.
        workspaces: for keys and for values, of a codec that encodes.
    """

    def __init__(
        self,
        page: int,
        slot: int,
        seen: Sequence[int],
        lengths: Sequence[int],
        references: PageReferences,
        workspaces: Sequence[Tensor],
    ) -> None:
        self.page = page
        self.slot = slot
        self.clean: set[int] = set()  # layers that have had their clean write
        self.cleaning = False  # whether every write from now on is one
        self._references = references
        self._workspaces = workspaces
        self._encodes = self._codec.workspace_pages(references.pool.slots) > 0
        self._coded = CodedWindows()
        self._written: set[int] = set()
        self._last_written: int | None = None
        self._fresh: dict[int, tuple[Tensor, Tensor]] = {}  # what carries gradients, by layer
        if self._encodes:
            self.slots = (*(other for other in seen if other != slot), slot)
        else:
            self.slots = tuple(seen)
        length = dict(zip(seen, lengths, strict=True))
        self._lengths = [length[other] for other in self.slots]
        self.tokens = length[slot]

    def write(self, layer: int, k: Block, v: Block, clean: bool) -> None:
        """Take a layer's keys and values, in place of those of an earlier step."""
        for name, x in (("keys", k), ("values", v)):
            present(name, x, why="they are [samples, tokens, heads, head_dim]. Pass the layer's.")
        switch("clean", clean, why="it marks the pass whose values are kept.")
        samples, whole, heads, head_dim = self._layout.page_shape
        expected = (samples, self.tokens, heads, head_dim)
        if k.shape != expected or v.shape != expected:
            raise ValueError(
                f"this cache page is {expected} (samples, tokens, heads, head_dim), got "
                f"keys {tuple(k.shape)} and values {tuple(v.shape)}: sinks and windows count whole "
                f"pages. Write one whole block, build the CacheLayout for this block size, or "
                f"begin_block(..., tokens=) for a block that is shorter than the others."
            )
        if not (k.is_floating_point() and v.is_floating_point()):
            raise ValueError(
                f"keys and values are floating-point tensors, got {k.dtype} and {v.dtype}: codecs "
                f"round them. Convert them first."
            )
        halves = (torch.float16, torch.bfloat16)
        if k.dtype in halves and self._codec.dtype in halves and k.dtype != self._codec.dtype:
            raise ValueError(
                f"keys and values of {k.dtype} for a codec that reads {self._codec.dtype}: neither "
                f"type of 16 bits holds the other's numbers. Give the codec the model's type, as "
                f"in PlainCodec({k.dtype})."
            )
        if self.tokens < whole:
            rest = (0, 0, 0, 0, 0, whole - self.tokens)
            k, v = (torch.nn.functional.pad(x, rest) for x in (k, v))
        self._fresh.pop(layer, None)
        if torch.is_grad_enabled() and (k.requires_grad or v.requires_grad):
            self._fresh[layer] = (k, v)
        pages = (k.detach(), v.detach())
        if self._encodes:
            start = (len(self.slots) - 1) * whole
            for workspace, own in zip(self._workspaces, pages, strict=True):
                workspace[:, start : start + whole].copy_(own)
        if clean or not self._encodes:
            self._references.write(layer, self.slot, pages)
        self._last_written = layer
        self._written.add(layer)
        if clean:
            self.clean.add(layer)

    def room(self, layer: int) -> tuple[Block, Block] | None:
        """Where a whole block's keys and values will lie as they are; None if they are copied."""
        if self._encodes or self.tokens < self._layout.tokens_per_page:
            return None
        keys, values = (store[:, slot] for store, slot in self._references.stores(layer, self.slot))
        return keys, values

    def read(self, layer: int) -> tuple[Visible, Visible]:
        """Keys and values of every page seen, in the order of ``slots``."""
        self._require_written(layer)
        keys, values = self._window(layer)
        return self._without_padding(keys), self._without_padding(values)

    def read_coded(self, layer: int) -> tuple[EncodedHeads, EncodedHeads]:
        """The same in E4M3, the block's own tokens last; no gradient."""
        self._require_written(layer)
        whole = self._layout.tokens_per_page
        if self._encodes:
            start = whole * (len(self.slots) - 1)
            own = [workspace[:, start : start + self.tokens] for workspace in self._workspaces]
        else:
            stores = self._references.stores(layer, self.slot)
            own = [store[:, slot, : self.tokens] for store, slot in stores]
        return self._coded.read(layer, own, lambda: self._past_pages(layer))

    def coded_tensors(self) -> dict[str, Tensor]:
        """The memory of what ``read_coded`` gave, by name."""
        return self._coded.tensors()

    def require_clean_writes(self) -> None:
        """Raise ``ValueError`` if a layer had none: the block cannot be kept yet."""
        missing = sorted(set(range(self._layout.layers)) - self.clean)
        if missing:
            raise ValueError(
                f"commit of block {self.page} without a clean write of layers {missing}: what is "
                f"kept must come from the clean pass. Run the model once more on the finished "
                f"latents with write(..., clean=True)."
            )

    def require_no_clean_write(self) -> None:
        """Raise ``ValueError`` if one was: a shot cannot forget any more."""
        if self.clean or self.cleaning:
            raise ValueError(
                f"start_shot(forget=True) after clean writes of block {self.page}: its "
                f"layers must all have seen the same pages. Call it before the clean pass."
            )

    @property
    def tokens_seen(self) -> int:
        """Tokens of all pages seen."""
        return sum(self._lengths)

    def in_place(self, layer: int) -> Sequence[Tensor] | None:
        """The memory where ``read`` gives keys and values; None where it copies them."""
        if self.tokens_seen < len(self.slots) * self._layout.tokens_per_page:
            return None
        if self._encodes:
            return [workspace[:, : self.tokens_seen] for workspace in self._workspaces]
        return self._references.in_place(layer, self.slots)

    @property
    def _layout(self) -> CacheLayout:
        return self._references.pool.layout

    @property
    def _codec(self) -> PageCodec:
        return self._references.pool.codec

    def _past_pages(self, layer: int) -> list[list[Tensor]]:
        """The pages of the past without their padding, of keys and of values."""
        past = [
            pair for pair in zip(self.slots, self._lengths, strict=True) if pair[0] != self.slot
        ]
        if not past:
            return [[], []]
        slots, lengths = zip(*past, strict=True)
        if not self._encodes:
            pages = [self._references.read(layer, [slot], None) for slot in slots]
            return [
                [page[:, :length] for page, length in zip(kind, lengths, strict=True)]
                for kind in zip(*pages, strict=True)
            ]
        whole = self._layout.tokens_per_page
        rooms = [workspace[:, : whole * len(slots)] for workspace in self._workspaces]
        self._references.read(layer, slots, rooms)
        if all(length == whole for length in lengths):
            return [[room] for room in rooms]
        return [
            [room[:, at * whole : at * whole + length] for at, length in enumerate(lengths)]
            for room in rooms
        ]

    def _require_written(self, layer: int) -> None:
        """Raise ``ValueError`` if the block's own keys and values of a layer are not there."""
        if layer not in self._written or (self._encodes and layer != self._last_written):
            raise ValueError(
                f"read({layer}) before write({layer}) in this step: a window includes the block's "
                f"own keys and values, and layers share the room they are read from. "
                f"Write a layer, then read it, then go to the next."
            )

    def _window(self, layer: int) -> Sequence[Tensor]:
        """Whole pages of keys and of values; those with gradients stand in for the own page."""
        fresh = self._fresh.get(layer)
        if self._encodes:
            past = self.slots[:-1]
            tokens = len(past) * self._layout.tokens_per_page
            rooms = [workspace[:, :tokens] for workspace in self._workspaces]
            if past:
                self._references.read(layer, past, rooms)
            if fresh is None:
                end = tokens + self._layout.tokens_per_page
                return [workspace[:, :end] for workspace in self._workspaces]
            pages = [rooms, [own.to(self._codec.dtype) for own in fresh]]
        elif fresh is None:
            return self._references.read(layer, self.slots, None)
        else:
            pages = [
                [own.to(self._codec.dtype) for own in fresh]
                if slot == self.slot
                else list(self._references.read(layer, [slot], None))
                for slot in self.slots
            ]
        return [torch.cat(parts, dim=1) for parts in zip(*pages, strict=True)]

    def _without_padding(self, x: Tensor) -> Tensor:
        whole = self._layout.tokens_per_page
        if all(length == whole for length in self._lengths):
            return x
        starts = range(0, whole * len(self.slots), whole)
        parts = [
            x[:, start : start + length]
            for start, length in zip(starts, self._lengths, strict=True)
        ]
        return torch.cat(parts, dim=1)
