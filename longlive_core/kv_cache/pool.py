"""Where pages lie in memory: one pool serves a cache and all its forks."""

import threading
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from longlive_core.kv_cache.codec import Page, PageCodec
from longlive_core.kv_cache.layout import CacheLayout

PageChunk = list[tuple[Any, Any]]
"""Memory for one or more pages: of each layer a store of keys and a store of values."""


class PagePool:
    """Memory for pages, which a cache and its forks share through ``PageReferences`` each.

    A *place* is room for one page: keys and values of every layer. The first chunk of memory has a
    place for each slot of one cache, side by side, so that the window of a cache without forks is
    read in one piece. A fork refers to its parent's places. Whoever writes a page takes a place
    that no other cache refers to: the slot's own in the first chunk, another that is free there, or
    else a further chunk of one page, which is given back when no cache refers to it. There are no
    reference counts: a place is free if no living ``PageReferences`` names it.

    Args:
        layout: sizes of a page.
        codec: how pages are stored.
        slots: slots of one cache.
        device: where.
    """

    def __init__(
        self, layout: CacheLayout, codec: PageCodec, slots: int, device: torch.device
    ) -> None:
        self.layout = layout
        self.codec = codec
        self.slots = slots
        self.device = device
        self._first = self._allocate(slots)
        self._more: dict[int, PageChunk] = {}
        self._references: weakref.WeakSet[PageReferences] = weakref.WeakSet()
        self._lock = threading.RLock()  # forks may run in threads of their own

    def reference(self, places: Sequence[int | None] | None = None) -> "PageReferences":
        """References to these places, one for each slot; to none if not given."""
        with self._lock:
            named: Sequence[int | None] = [None] * self.slots if places is None else places
            references = PageReferences(self, list(named))
            self._references.add(references)
        weakref.finalize(references, self.trim).atexit = False
        return references

    def take(self, references: "PageReferences", slot: int) -> None:
        """Give a slot a place that no other cache refers to; what lies there is not kept."""
        with self._lock:
            own, references.places[slot] = references.places[slot], None
            taken = self._taken()
            wanted = (slot, *(() if own is None else (own,)), *range(len(taken) + 1))
            place = next(place for place in wanted if place not in taken)
            references.places[slot] = place
            if place >= self.slots and place not in self._more:
                self._more[place] = self._allocate(1)
            self.trim()

    def compact(self, references: "PageReferences") -> None:
        """Move pages that one cache alone has in further chunks to free places of the first one.

        A fork that is gone kept those places occupied; without this, a page that is never written
        again (a sink) would keep its chunk for good. Call it between blocks: windows are views.
        """
        with self._lock:
            others = self._taken(apart_from=references)
            for slot, place in enumerate(references.places):
                if place is None or place < self.slots or place in others:
                    continue
                taken = self._taken()
                free = [home for home in (slot, *range(self.slots)) if home not in taken]
                if free:
                    self._copy(place, free[0])
                    references.places[slot] = free[0]
            self.trim()

    def trim(self) -> None:
        """Give back the memory of further chunks that no cache refers to."""
        with self._lock:
            taken = self._taken()
            for place in [place for place in list(self._more) if place not in taken]:
                self._more.pop(place, None)  # a fork may be collected, and trim, in between

    def exclusive(self, references: "PageReferences") -> int:
        """How many places no other cache refers to."""
        with self._lock:
            own = {place for place in references.places if place is not None}
            return len(own - self._taken(references))

    def find(self, place: int) -> tuple[PageChunk, int]:
        """The chunk of a place, and which of its slots it is."""
        return (self._first, place) if place < self.slots else (self._more[place], 0)

    def tensors(self) -> dict[str, Tensor]:
        """Everything allocated for pages, by name."""
        chunks = {"": self._first, **{f"more{place}.": more for place, more in self._more.items()}}
        return {
            f"{chunk}{layer}.{kind}.{name}": tensor
            for chunk, layers in chunks.items()
            for layer, stores in enumerate(layers)
            for kind, store in zip(("keys", "values"), stores, strict=True)
            for name, tensor in self.codec.tensors(store).items()
        }

    def _taken(self, apart_from: "PageReferences | None" = None) -> set[int]:
        others = [one for one in self._references if one is not apart_from]
        return {place for one in others for place in one.places if place is not None}

    def _copy(self, source: int, target: int) -> None:
        """Copy all that is stored of a page to another place."""
        (here, index), (there, home) = self.find(source), self.find(target)
        for stores, homes in zip(here, there, strict=True):
            for store, kept in zip(stores, homes, strict=True):
                parts = self.codec.page(kept, home)
                for name, part in self.codec.page(store, index).items():
                    parts[name].copy_(part)

    def _allocate(self, slots: int) -> PageChunk:
        shape = self.layout.page_shape
        with torch.inference_mode(False):  # what is made under it can only be written under it
            return [
                (
                    self.codec.allocate(slots, shape, self.device),
                    self.codec.allocate(slots, shape, self.device),
                )
                for _ in range(self.layout.layers)
            ]


class PageReferences:
    """The places that one cache refers to, one for each slot; None for a slot that is free."""

    def __init__(self, pool: PagePool, places: list[int | None]) -> None:
        self.pool = pool
        self.places = places

    def fork(self) -> "PageReferences":
        """Further references to the same places, for a fork."""
        return self.pool.reference(self.places)

    def keep_only(self, slots: Sequence[int]) -> None:
        """Drop the references of all other slots."""
        self.places = [place if slot in slots else None for slot, place in enumerate(self.places)]

    def claim(self, slot: int) -> None:
        """Give a slot that is about to be written a place that no other cache refers to."""
        self.pool.take(self, slot)

    def compact(self) -> None:
        """Move pages out of further chunks where the first one has room again."""
        if any(place is not None and place >= self.pool.slots for place in self.places):
            self.pool.compact(self)

    def write(self, layer: int, slot: int, pages: tuple[Page, Page]) -> None:
        """Store keys and values in a slot that was claimed."""
        for (store, index), page in zip(self.stores(layer, slot), pages, strict=True):
            self.pool.codec.write(store, index, page)

    def read(self, layer: int, slots: Sequence[int], outs: Sequence[Page] | None) -> Sequence[Page]:
        """Keys and values of these slots, in one piece each; ``outs`` as ``PageCodec`` has it."""
        runs: list[tuple[PageChunk, list[int]]] = []
        for slot in slots:
            chunk, index = self._find(slot)
            if runs and runs[-1][0] is chunk:
                runs[-1][1].append(index)
            else:
                runs.append((chunk, [index]))
        tokens, start, parts = self.pool.layout.tokens_per_page, 0, []
        for chunk, indices in runs:
            end = start + len(indices) * tokens
            rooms = None if outs is None else [out[:, start:end] for out in outs]
            parts.append(self.pool.codec.read(chunk[layer], indices, rooms))
            start = end
        if len(parts) == 1 or outs is not None:
            return parts[0] if outs is None else outs
        return [torch.cat(pieces, dim=1) for pieces in zip(*parts, strict=True)]

    def in_place(self, layer: int, slots: Sequence[int]) -> Sequence[Page] | None:
        """The pages of these slots where they lie; None if the codec would copy them."""
        places = [self._find(slot) for slot in slots]
        extent, first = places[0]
        indices = [index for other, index in places if other is extent]
        if indices != list(range(first, first + len(places))):
            return None
        windows = self.pool.codec.read(extent[layer], indices, None)
        kept = [
            {x.untyped_storage().data_ptr() for x in self.pool.codec.tensors(store).values()}
            for store in extent[layer]
        ]
        lies = zip(windows, kept, strict=True)
        return windows if all(x.untyped_storage().data_ptr() in own for x, own in lies) else None

    def page(self, layer: int, slot: int) -> dict[str, Tensor]:
        """Everything stored of one page of keys and of values, by name, as views."""
        return {
            f"{kind}.{name}": tensor
            for kind, (store, index) in zip(
                ("keys", "values"), self.stores(layer, slot), strict=True
            )
            for name, tensor in self.pool.codec.page(store, index).items()
        }

    def stores(self, layer: int, slot: int) -> list[tuple[Any, int]]:
        """The stores of keys and of values, each with the slot's place in it."""
        chunk, index = self._find(slot)
        return [(store, index) for store in chunk[layer]]

    def _find(self, slot: int) -> tuple[PageChunk, int]:
        place = self.places[slot]
        assert place is not None, f"slot {slot} is free"
        return self.pool.find(place)
