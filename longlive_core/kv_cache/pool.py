"""Where pages lie in memory: one pool serves a cache and all its forks."""

import threading
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from longlive_core.kv_cache.codec import Page, PageCodec
from longlive_core.kv_cache.layout import CacheLayout

Extent = list[tuple[Any, Any]]  # of each layer a store of keys and a store of values


class PagePool:
    """Places for pages; caches hold them through a ``PageHold`` each.

    The first extent has a place for each slot of one cache, side by side, so that the window of a
    cache without forks is read in one piece. A fork shares its parent's places. Whoever writes a
    page takes a place that nobody else holds: the slot's own in the first extent, another that is
    free there, or else an extent of one page more, which is given back when nobody holds it.
    Nothing is counted: a place is free if no living hold names it.

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
        self._more: dict[int, Extent] = {}
        self._holds: weakref.WeakSet[PageHold] = weakref.WeakSet()
        self._lock = threading.RLock()  # forks may run in threads of their own

    def hold(self, places: Sequence[int | None] | None = None) -> "PageHold":
        """A new hold on these places, one for each slot; on none if not given."""
        with self._lock:
            hold = PageHold(self, [None] * self.slots if places is None else list(places))
            self._holds.add(hold)
        weakref.finalize(hold, self.trim).atexit = False
        return hold

    def take(self, hold: "PageHold", slot: int) -> None:
        """Give a slot a place that no other hold names; what lies there is not kept."""
        with self._lock:
            own, hold.places[slot] = hold.places[slot], None
            taken = self._taken()
            wanted = (slot, *(() if own is None else (own,)), *range(len(taken) + 1))
            place = next(place for place in wanted if place not in taken)
            hold.places[slot] = place
            if place >= self.slots and place not in self._more:
                self._more[place] = self._allocate(1)
            self.trim()

    def come_home(self, hold: "PageHold") -> None:
        """Move what a hold alone has in further extents to free places of the first one.

        Forks kept those places from it and are gone; without this a page that is never written
        again, a sink, would take an extent for good. Only between blocks: windows are views.
        """
        with self._lock:
            others = self._taken(apart_from=hold)
            for slot, place in enumerate(hold.places):
                if place is None or place < self.slots or place in others:
                    continue
                taken = self._taken()
                free = [home for home in (slot, *range(self.slots)) if home not in taken]
                if free:
                    self._copy(place, free[0])
                    hold.places[slot] = free[0]
            self.trim()

    def trim(self) -> None:
        """Give back the memory of further extents that nobody holds."""
        with self._lock:
            taken = self._taken()
            for place in [place for place in self._more if place not in taken]:
                del self._more[place]

    def exclusive(self, hold: "PageHold") -> int:
        """How many places this hold alone names."""
        with self._lock:
            return len({place for place in hold.places if place is not None} - self._taken(hold))

    def find(self, place: int) -> tuple[Extent, int]:
        """The extent of a place, and which of its slots it is."""
        return (self._first, place) if place < self.slots else (self._more[place], 0)

    def tensors(self) -> dict[str, Tensor]:
        """Everything allocated for pages, by name."""
        extents = {"": self._first, **{f"more{place}.": more for place, more in self._more.items()}}
        return {
            f"{extent}{layer}.{kind}.{name}": tensor
            for extent, layers in extents.items()
            for layer, stores in enumerate(layers)
            for kind, store in zip(("keys", "values"), stores, strict=True)
            for name, tensor in self.codec.tensors(store).items()
        }

    def _taken(self, apart_from: "PageHold | None" = None) -> set[int]:
        holds = [hold for hold in self._holds if hold is not apart_from]
        return {place for hold in holds for place in hold.places if place is not None}

    def _copy(self, source: int, target: int) -> None:
        """Copy all that is stored of a page to another place."""
        (here, index), (there, home) = self.find(source), self.find(target)
        for stores, homes in zip(here, there, strict=True):
            for store, kept in zip(stores, homes, strict=True):
                parts = self.codec.page(kept, home)
                for name, part in self.codec.page(store, index).items():
                    parts[name].copy_(part)

    def _allocate(self, slots: int) -> Extent:
        shape = self.layout.page_shape
        with torch.inference_mode(False):  # what is made under it can only be written under it
            return [
                (
                    self.codec.allocate(slots, shape, self.device),
                    self.codec.allocate(slots, shape, self.device),
                )
                for _ in range(self.layout.layers)
            ]


class PageHold:
    """The places that one cache holds, a place a slot; a slot that is free has none."""

    def __init__(self, pool: PagePool, places: list[int | None]) -> None:
        self.pool = pool
        self.places = places

    def fork(self) -> "PageHold":
        """Another hold on the same places."""
        return self.pool.hold(self.places)

    def keep(self, slots: Sequence[int]) -> None:
        """Let go of the places of all other slots."""
        self.places = [place if slot in slots else None for slot, place in enumerate(self.places)]

    def claim(self, slot: int) -> None:
        """Make sure that nobody else holds the place of a slot: it is about to be written."""
        self.pool.take(self, slot)

    def come_home(self) -> None:
        """Give up further extents where the first one has room again."""
        if any(place is not None and place >= self.pool.slots for place in self.places):
            self.pool.come_home(self)

    def write(self, layer: int, slot: int, pages: tuple[Page, Page]) -> None:
        """Store keys and values in a slot that was claimed."""
        for (store, index), page in zip(self._stores(layer, slot), pages, strict=True):
            self.pool.codec.write(store, index, page)

    def read(self, layer: int, slots: Sequence[int], outs: Sequence[Page] | None) -> Sequence[Page]:
        """Keys and values of these slots, in one piece each; ``outs`` as ``PageCodec`` has it."""
        runs: list[tuple[Extent, list[int]]] = []
        for slot in slots:
            extent, index = self._find(slot)
            if runs and runs[-1][0] is extent:
                runs[-1][1].append(index)
            else:
                runs.append((extent, [index]))
        tokens, start, parts = self.pool.layout.tokens_per_page, 0, []
        for extent, indices in runs:
            end = start + len(indices) * tokens
            rooms = None if outs is None else [out[:, start:end] for out in outs]
            parts.append(self.pool.codec.read(extent[layer], indices, rooms))
            start = end
        if len(parts) == 1 or outs is not None:
            return parts[0] if outs is None else outs
        return [torch.cat(pieces, dim=1) for pieces in zip(*parts, strict=True)]

    def page(self, layer: int, slot: int) -> dict[str, Tensor]:
        """Everything stored of one page of keys and of values, by name, as views."""
        return {
            f"{kind}.{name}": tensor
            for kind, (store, index) in zip(
                ("keys", "values"), self._stores(layer, slot), strict=True
            )
            for name, tensor in self.pool.codec.page(store, index).items()
        }

    def _stores(self, layer: int, slot: int) -> list[tuple[Any, int]]:
        extent, index = self._find(slot)
        return [(store, index) for store in extent[layer]]

    def _find(self, slot: int) -> tuple[Extent, int]:
        place = self.places[slot]
        assert place is not None, f"slot {slot} is free"
        return self.pool.find(place)
