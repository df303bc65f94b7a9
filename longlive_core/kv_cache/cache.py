"""PagedKVCache: write a block, read a window, start a shot."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from longlive_core.kv_cache.codec import PageCodec
from longlive_core.kv_cache.layout import CacheLayout
from longlive_core.kv_cache.page_table import PageTable
from longlive_core.kv_cache.snapshot import CacheSnapshot
from longlive_core.kv_cache.window import LastingPages, WindowPolicy

Block = Float[Tensor, "samples tokens heads head_dim"]
Visible = Float[Tensor, "samples visible_tokens heads head_dim"]


class PagedKVCache:
    """Keys and values of past blocks, a page a block, for every layer of a transformer.

    One block goes through it like this::

        cache.begin_block(n)                      # pages that no block will see again are dropped
        for each denoising step, for each layer:
            cache.write(layer, k, v)              # the block's own; each step replaces the last
            k, v = cache.read(layer)              # the window, the block's own tokens included
        for each layer, on the clean pass:
            cache.write(layer, k, v, clean=True)
            k, v = cache.read(layer)
        cache.commit()
        cache.start_shot()                        # if the block was a cut

    A page may be made again later, from other keys and values (``begin_rewrite``).

    Pages never move: a window is a list of slots, and a cut is a number. Softmax does not mind the
    order of its keys, so ``read`` gives pages in the order of their slots; ``order`` names it.
    What is kept is detached. The block's own keys and values, while it is being made, carry
    gradients if gradients are enabled; do not recompute (activation checkpointing) through a cache,
    whose contents have moved on by then.

    Args:
        layout: sizes.
        policy: which pages a block sees: ``Window``, or one of your own.
        codec: how pages are stored.
        device: where.
    """

    def __init__(
        self,
        layout: CacheLayout,
        policy: WindowPolicy,
        codec: PageCodec,
        device: torch.device | str = "cpu",
    ) -> None:
        self.layout = layout
        self.policy = policy
        self.codec = codec
        self.device = torch.device(device)
        slots, shape = policy.capacity, layout.page_shape
        self._table = PageTable(slots)
        self._keys, self._values = (
            [codec.allocate(slots, shape, self.device) for _ in range(layout.layers)]
            for _ in range(2)
        )
        samples, tokens, heads, head_dim = shape
        room = (samples, codec.workspace_pages(slots) * tokens, heads, head_dim)
        self._key_workspace, self._value_workspace = (
            torch.empty(room, dtype=codec.dtype, device=self.device) for _ in range(2)
        )
        self._encodes = codec.workspace_pages(slots) > 0
        self._blocks = 0
        self._shot_start = 0
        self._forgotten = 0
        self._own_slot = 0
        self._visible_slots: tuple[int, ...] = ()
        self._block: int | None = None
        self._last_written: int | None = None
        self._set_block(None)

    @property
    def blocks(self) -> int:
        """Blocks committed so far: the number of the next one."""
        return self._blocks

    @property
    def shot_start(self) -> int:
        """The page that anchors the current shot."""
        return self._shot_start

    @property
    def pages(self) -> tuple[int, ...]:
        """The pages held, ascending; that of the block in progress among them."""
        return tuple(sorted(page for page in self._table.pages if page is not None))

    @property
    def visible_next(self) -> tuple[int, ...]:
        """The pages of the past that the next block will see, ascending."""
        self._between_blocks("visible_next")
        return tuple(page for page in self._visible(self._blocks) if page != self._blocks)

    @property
    def order(self) -> tuple[int, ...]:
        """The pages that ``read`` gives for the block in progress, in the order it gives them."""
        block = self._in_progress("read order")
        pages = [self._table.pages[slot] for slot in self._visible_slots]
        held = tuple(page for page in pages if page is not None)
        if self._encodes:
            return (*(page for page in held if page != block), block)
        return held

    def begin_block(self, block: int) -> None:
        """Make room for the next block, dropping pages that it and later ones cannot see.

        Beginning the block in progress again discards what was written for it.
        """
        if block != self._blocks:
            raise ValueError(
                f"begin_block({block}) after {self._blocks} committed blocks: blocks come in "
                f"order, the next is {self._blocks}. Commit the block before it, or reset()."
            )
        if self._block is not None and self._block != block:
            raise ValueError(
                f"begin_block({block}) while page {self._block} is rewritten: its old keys and "
                f"values are gone, it has to be finished. Write every layer and commit()."
            )
        retained = self._remembered(self.policy.retained(block, self._shot_start))
        self._own_slot = self._table.make_room(block, retained)
        self._visible_slots = self._table.slots(self._visible(block))
        self._set_block(block)

    def begin_rewrite(self, page: int) -> None:
        """Make a page again that is still held; ``commit`` ends it, and no block is added.

        It sees what the next block will see of the pages before it, and itself. Its old keys and
        values are gone from here on. To bring a window under a new prompt, rewrite its pages oldest
        first, each with one clean pass over its latents.
        """
        self._between_blocks("begin_rewrite")
        if page not in self.pages:
            raise ValueError(
                f"begin_rewrite({page}): that page is not held (held: {list(self.pages)}), so no "
                f"block would see it. Rewrite pages of visible_next."
            )
        older = [other for other in self.visible_next if other < page]
        self._own_slot = self._table.slot(page)
        self._visible_slots = self._table.slots((*older, page))
        self._set_block(page)

    def write(self, layer: int, k: Block, v: Block, *, clean: bool = False) -> None:
        """Take the block's own keys and values; ``clean`` on the pass whose values are kept."""
        self._in_progress("write")
        if k.shape != self.layout.page_shape or v.shape != self.layout.page_shape:
            raise ValueError(
                f"a cache page is {self.layout.page_shape} (samples, tokens, heads, head_dim), got "
                f"keys {tuple(k.shape)} and values {tuple(v.shape)}: sinks and windows count whole "
                f"pages. Write one whole block, or build the CacheLayout for this block size."
            )
        self._fresh.pop(layer, None)
        if torch.is_grad_enabled() and (k.requires_grad or v.requires_grad):
            self._fresh[layer] = (k, v)
        stores = (self._keys[layer], self._values[layer])
        workspaces = (self._key_workspace, self._value_workspace)
        for store, workspace, own in zip(stores, workspaces, (k, v), strict=True):
            if self._encodes:
                self._own_part(workspace).copy_(own.detach())
            if clean or not self._encodes:
                self.codec.write(store, self._own_slot, own.detach())
        self._last_written = layer
        self._written.add(layer)
        if clean:
            self._clean.add(layer)

    def read(self, layer: int) -> tuple[Visible, Visible]:
        """Keys and values of every page the block sees, its own included.

        A plain cache gives a view of its pages where they lie side by side: use it before the next
        ``write``, and do not change it. Any other gives the shared workspace or a copy.
        """
        self._in_progress("read")
        if layer not in self._written or (self._encodes and layer != self._last_written):
            raise ValueError(
                f"read({layer}) before write({layer}) in this step: a window includes the block's "
                f"own keys and values, and layers share the room they are read from. "
                f"Write a layer, then read it, then go to the next."
            )
        stores = (self._keys[layer], self._values[layer])
        keys, values = self._window(stores, self._fresh.get(layer))
        return keys, values

    def commit(self) -> None:
        """Keep the block in progress: every layer has had its clean write."""
        block = self._in_progress("commit")
        missing = sorted(set(range(self.layout.layers)) - self._clean)
        if missing:
            raise ValueError(
                f"commit of block {block} without a clean write of layers {missing}: what is kept "
                f"must come from the clean pass. Run the model once more on the finished latents "
                f"with write(..., clean=True)."
            )
        self._blocks = max(self._blocks, block + 1)
        self._set_block(None)

    def start_shot(self, *, forget: bool = False) -> None:
        """Let the block just committed anchor a new shot. A number changes; nothing moves.

        ``forget`` drops the history: of the pages before the anchor, only those stay that the
        policy calls ``lasting``. It may be called within the cut's own block as well, between
        denoising and the clean pass, so that what is kept of the block has not seen the history
        either (LongLive-2.0's ``shot_clean_recache``).
        """
        if forget and self._block is not None and self._block == self._blocks:
            if self._clean:
                raise ValueError(
                    f"start_shot(forget=True) after clean writes of block {self._block}: its "
                    f"layers must all have seen the same pages. Call it before the clean pass."
                )
            self._forget(self._block)
            self._visible_slots = self._table.slots(self._visible(self._block))
            self._set_block(self._block)
            return
        self._between_blocks("start_shot")
        if self._blocks == 0:
            raise ValueError(
                "start_shot before any block is committed: the first shot starts at page 0 anyway. "
                "Call it after the commit of a cut's own block."
            )
        self._shot_start = self._blocks - 1
        if forget:
            self._forget(self._shot_start)

    def fork(self) -> "PagedKVCache":
        """An independent copy that goes on from here, on the same device."""
        self._between_blocks("fork")
        other = PagedKVCache(self.layout, self.policy, self.codec, self.device)
        numbers = (self._blocks, self._shot_start, self._forgotten)
        other._take(self._stored(), self._table.pages, *numbers)
        return other

    def snapshot(self) -> CacheSnapshot:
        """What it takes to go on later, bit for bit, copied to the CPU."""
        self._between_blocks("snapshot")
        return CacheSnapshot(
            layout=self.layout,
            tensors={name: x.to("cpu", copy=True) for name, x in self._stored().items()},
            pages=self._table.pages,
            blocks=self._blocks,
            shot_start=self._shot_start,
            forgotten=self._forgotten,
        )

    def restore(self, snapshot: CacheSnapshot) -> None:
        """Become what the snapshot holds; a block in progress is forgotten."""
        here = {name: (x.shape, x.dtype) for name, x in self._stored().items()}
        there = {name: (x.shape, x.dtype) for name, x in snapshot.tensors.items()}
        if snapshot.layout != self.layout or here != there:
            raise ValueError(
                f"the snapshot is of another cache: it has {snapshot.layout} and "
                f"{len(snapshot.pages)} slots, this one {self.layout} and "
                f"{self.policy.capacity} slots of {self.codec}. Restore into a cache with the same "
                f"layout, window and codec."
            )
        numbers = (snapshot.blocks, snapshot.shot_start, snapshot.forgotten)
        self._take(snapshot.tensors, snapshot.pages, *numbers)

    def reset(self) -> None:
        """Forget everything; the memory stays for the next video."""
        self._table.clear()
        self._blocks = self._shot_start = self._forgotten = 0
        self._set_block(None)

    def tensors(self) -> dict[str, Tensor]:
        """Everything the cache has allocated: ``layout.bytes`` is the sum of their sizes."""
        shared = {"workspace.keys": self._key_workspace, "workspace.values": self._value_workspace}
        return {**self._stored(), **shared}

    def _stored(self) -> dict[str, Tensor]:
        return {
            f"{layer}.{kind}.{name}": tensor
            for kind, stores in (("keys", self._keys), ("values", self._values))
            for layer, store in enumerate(stores)
            for name, tensor in self.codec.tensors(store).items()
        }

    def _take(
        self,
        tensors: dict[str, Tensor],
        pages: tuple[int | None, ...],
        blocks: int,
        shot_start: int,
        forgotten: int,
    ) -> None:
        for name, tensor in self._stored().items():
            tensor.copy_(tensors[name])
        self._table.load(pages)
        self._blocks = blocks
        self._shot_start = shot_start
        self._forgotten = forgotten
        self._set_block(None)

    def _visible(self, block: int) -> tuple[int, ...]:
        return self._remembered(self.policy.visible(block, self._shot_start))

    def _remembered(self, pages: Iterable[int]) -> tuple[int, ...]:
        """Those pages that were not dropped by a shot that forgets."""
        lasting = self.policy.lasting if isinstance(self.policy, LastingPages) else ()
        return tuple(page for page in pages if page >= self._forgotten or page in lasting)

    def _forget(self, anchor: int) -> None:
        self._shot_start = self._forgotten = anchor
        self._table.keep(self._remembered(self.pages))

    def _window(
        self, stores: Sequence[Any], fresh: tuple[Tensor, Tensor] | None
    ) -> Sequence[Tensor]:
        """The visible keys and values; ``fresh`` stand in for the own page's, with gradients."""
        if self._encodes:
            past = [slot for slot in self._visible_slots if slot != self._own_slot]
            tokens = len(past) * self.layout.tokens_per_page
            workspaces = (self._key_workspace, self._value_workspace)
            rooms = [workspace[:, :tokens] for workspace in workspaces]
            if past:
                self.codec.read(stores, past, rooms)
            if fresh is None:
                end = tokens + self.layout.tokens_per_page
                return [workspace[:, :end] for workspace in workspaces]
            pages = [rooms, [own.to(self.codec.dtype) for own in fresh]]
        elif fresh is None:
            return self.codec.read(stores, self._visible_slots, None)
        else:
            pages = [
                [own.to(self.codec.dtype) for own in fresh]
                if slot == self._own_slot
                else self.codec.read(stores, [slot], None)
                for slot in self._visible_slots
            ]
        return [torch.cat(parts, dim=1) for parts in zip(*pages, strict=True)]

    def _own_part(self, workspace: Tensor) -> Tensor:
        """Where the block's own tokens lie in the workspace: after the visible past."""
        tokens = self.layout.tokens_per_page
        start = (len(self._visible_slots) - 1) * tokens
        return workspace[:, start : start + tokens]

    def _set_block(self, block: int | None) -> None:
        self._block = block
        self._written: set[int] = set()
        self._clean: set[int] = set()
        self._fresh: dict[int, tuple[Tensor, Tensor]] = {}
        self._last_written = None

    def _in_progress(self, what: str) -> int:
        if self._block is None:
            raise ValueError(
                f"{what} outside a block: no block is in progress, so no page is its own. "
                f"Call begin_block({self._blocks}) first."
            )
        return self._block

    def _between_blocks(self, what: str) -> None:
        if self._block is not None:
            raise ValueError(
                f"{what} in the middle of block {self._block}: half a block is not a state to go "
                f"on from. Call it after commit()."
            )
