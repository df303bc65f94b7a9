"""PagedKVCache: write a block, read a window, start a shot."""

from collections.abc import Iterable

import torch
from torch import Tensor

from longlive_core.checks import instance, switch, whole
from longlive_core.eight_bit import EncodedHeads
from longlive_core.kv_cache.codec import PageCodec
from longlive_core.kv_cache.content import ContentPolicy, PageChoice
from longlive_core.kv_cache.film import Film
from longlive_core.kv_cache.layer import LayerCache, in_a_graph, layers_of, show_window
from longlive_core.kv_cache.layout import CacheBytes, CacheLayout
from longlive_core.kv_cache.open_block import Block, OpenBlock, Visible
from longlive_core.kv_cache.page_table import PageTable
from longlive_core.kv_cache.pool import PagePool
from longlive_core.kv_cache.scratch import summaries_of, workspaces_of
from longlive_core.kv_cache.snapshot import CacheSnapshot, NotCopied
from longlive_core.kv_cache.window import LastingPages, WindowPolicy
from longlive_core.tensor_checks import place


class PagedKVCache(NotCopied):
    """Keys and values of past blocks, a page a block, for every layer of a transformer.

    One block goes through it like this::

        cache.begin_block(n)                      # pages that no block will see again are dropped
        for each denoising step, for each layer:
            cache.write(layer, k, v)              # the block's own; each step replaces the last
            k, v = cache.read(layer)              # the window, the block's own tokens included
        cache.begin_clean_pass()                  # or write(..., clean=True)
        for each layer:
            cache.write(layer, k, v)              # this one is kept
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
        layout: the sizes of a page, and the number of layers.
        policy: which pages a block sees: ``Window``, one of your own, or a ``ContentPolicy``.
        codec: how pages are stored.
        device: where they are stored.
        windows: whether ``read_coded`` gives windows in E4M3.
    """

    def __init__(
        self,
        layout: CacheLayout,
        policy: WindowPolicy | ContentPolicy,
        codec: PageCodec,
        device: torch.device | str = "cpu",
        *,
        windows: bool = False,
    ) -> None:
        instance("PagedKVCache's layout", layout, CacheLayout, why="it has the sizes of a page.")
        self.layout = layout
        self.policy = policy
        self.codec = codec
        self.windows = windows
        self.device = place("PagedKVCache's device", device)
        switch("PagedKVCache's windows", windows, why="with them read_coded gives some.")
        layout.require_room(codec, policy, self.device, windows)
        self._table = PageTable(policy.capacity)
        self._references = PagePool(layout, codec, policy.capacity, self.device).reference()
        self._workspaces = workspaces_of(layout, codec, policy.capacity, self.device)
        self._summaries: Tensor | None = None
        if isinstance(policy, ContentPolicy):
            self._summaries = summaries_of(layout, policy.capacity, self.device)
        self._film = Film(page=layout.tokens_per_page)
        self._layers = layers_of(self, layout, codec, self.device)
        self._open: OpenBlock | None = None

    @property
    def blocks(self) -> int:
        """Blocks committed so far: the number of the next one."""
        return self._film.blocks

    @property
    def shot_start(self) -> int:
        """The page that anchors the current shot."""
        return self._film.shot_start

    @property
    def pages(self) -> tuple[int, ...]:
        """The pages held, ascending; that of the block in progress among them."""
        return tuple(sorted(page for page in self._table.pages if page is not None))

    @property
    def visible_next(self) -> tuple[int, ...]:
        """The pages of the past that the next block will see, ascending."""
        self._between_blocks("visible_next")
        visible = self._choice(self.blocks).visible
        return tuple(page for page in visible if page != self.blocks)

    @property
    def order(self) -> tuple[int, ...]:
        """The pages that ``read`` gives for the block in progress, in the order it gives them."""
        return tuple(self._table.page(slot) for slot in self._in_progress("read order").slots)

    def frames(self, tokens_per_frame: int) -> dict[int, range]:
        """Of each page held, its frames, counted from the film's first one: for ``places``.

        Raises ``ValueError`` if a block is not of whole frames.
        """
        return self._film.frames(tokens_per_frame)

    def begin_block(self, block: int, *, tokens: int | None = None) -> None:
        """Make room for the next block, dropping pages that it and later ones cannot see.

        Beginning the block in progress again discards what was written for it. A block may have
        fewer ``tokens`` than the layout's page, which is the longest block's; wherever it stands in
        the film, it takes a whole page's room.
        """
        block = whole("begin_block's block", block, why="blocks are counted from 0.")
        if block != self.blocks:
            raise ValueError(
                f"begin_block({block}) after {self.blocks} committed blocks: blocks come in "
                f"order, the next is {self.blocks}. Commit the block before it, or reset()."
            )
        if self._open is not None and self._open.page != block:
            raise ValueError(
                f"begin_block({block}) while page {self._open.page} is rewritten: its old keys and "
                f"values are gone, it has to be finished. Write every layer and commit()."
            )
        tokens = self.layout.block_tokens(tokens)
        self._settle()
        choice = self._choice(block)
        self._table.make_room(block, choice.retained)
        self._film.begin(block, tokens)
        self._drop_the_rest()
        self._begin(block, choice.visible)

    def begin_rewrite(self, page: int) -> None:
        """Make a page again that is still held; ``commit`` ends it, and no block is added.

        It sees what the next block will see of the pages before it, and itself. Its old keys and
        values are gone from here on. To bring a window under a new prompt, rewrite its pages oldest
        first, each with one clean pass over its latents.
        """
        self._between_blocks("begin_rewrite")
        page = whole("begin_rewrite's page", page, why="pages are counted from 0.")
        if page not in self.pages:
            raise ValueError(
                f"begin_rewrite({page}): that page is not held (held: {list(self.pages)}), so no "
                f"block would see it. Rewrite pages of visible_next."
            )
        older = [other for other in self.visible_next if other < page]
        self._begin(page, (*older, page))

    def begin_clean_pass(self) -> None:
        """From here to ``commit`` every write is a clean one, whatever it says itself."""
        self._in_progress("begin_clean_pass").cleaning = True

    def layer(self, layer: int) -> LayerCache:
        """One layer, for a module to hold: ``write(k, v)`` and ``read()``. See ``LayerCache``."""
        return self._layers[self._layer("layer", layer)]

    def write(self, layer: int, k: Block, v: Block, *, clean: bool = False) -> None:
        """Take the block's own keys and values of a layer, [samples, tokens, heads, head_dim] each.

        They replace those of the step before. ``clean`` marks the pass whose values are kept.
        """
        if in_a_graph():
            return self._layers[layer].write(k, v, clean=clean)
        own = self._in_progress("write")
        layer = self._layer("write", layer)
        clean = clean or own.cleaning
        own.write(layer, k, v, clean)
        if clean and self._summaries is not None:
            self._summaries[own.slot, layer] = k.detach().float().mean(1)

    def room(self, layer: int) -> tuple[Block, Block] | None:
        """Where ``write`` would put a layer's keys and values; None if it copies in any case."""
        return self._in_progress("room").room(self._layer("room", layer))

    def read(self, layer: int) -> tuple[Visible, Visible]:
        """Keys and values of every page the block sees, its own included.

        A plain cache gives a view of its pages where they lie side by side: use it before the next
        ``write``, and do not change it. Any other gives the shared workspace or a copy.
        """
        if in_a_graph():
            return self._layers[layer].read()
        return self._in_progress("read").read(self._layer("read", layer))

    def read_coded(self, layer: int) -> tuple[EncodedHeads, EncodedHeads] | None:
        """As ``read``, for attention in eight bits: in E4M3, the block's own tokens last.

        The past is encoded once a block, and again by no later read: so attention takes these as
        they are. None from a cache that was made without ``windows``. No gradient.
        """
        if not self.windows:
            return None
        return self._in_progress("read_coded").read_coded(self._layer("read_coded", layer))

    def commit(self) -> None:
        """Keep the block in progress. ``ValueError`` if a layer had no clean write."""
        own = self._in_progress("commit")
        own.require_clean_writes()
        self._film.commit(own.page)
        self._open = None

    def start_shot(self, *, forget: bool = False) -> None:
        """Begin a new shot, anchored by the block just committed. No page is moved or copied.

        ``forget`` drops the history: of the pages before the anchor, only those stay that the
        policy calls ``lasting``. It may be called within the cut's own block as well, between
        denoising and the clean pass, so that what is kept of the block has not seen the history
        either (LongLive-2.0's ``shot_clean_recache``).
        """
        own = self._open
        if forget and own is not None and own.page == self.blocks:
            own.require_no_clean_write()
            self._forget(own.page)
            self._begin(own.page, self._choice(own.page).visible)
            return
        self._between_blocks("start_shot")
        if self.blocks == 0:
            raise ValueError(
                "start_shot before any block is committed: the first shot starts at page 0 anyway. "
                "Call it after the commit of a cut's own block."
            )
        self._film.shot_start = self.blocks - 1
        if forget:
            self._forget(self.shot_start)

    def fork(self) -> "PagedKVCache":
        """Another cache that goes on from here, on the same device.

        The two share the pages that both hold; what either writes from now on is its own. Scratch
        is not shared, so that forks may run side by side (on a GPU, in one stream).
        """
        self._between_blocks("fork")
        other = object.__new__(type(self))
        vars(other).update(vars(self))
        slots = self.policy.capacity
        other._table = PageTable(slots)
        other._table.load(self._table.pages)
        other._references = self._references.fork()
        other._workspaces = workspaces_of(self.layout, self.codec, slots, self.device)
        if self._summaries is not None:
            with torch.inference_mode(False):
                other._summaries = self._summaries.clone()
        other._film = self._film.copy()
        other._layers = layers_of(other, self.layout, self.codec, self.device)
        return other

    @property
    def own_bytes(self) -> CacheBytes:
        """The bytes of this cache alone: pages that no fork shares, scratch and summaries."""
        own = self.layout.bytes(self.codec, self._references.pool.exclusive(self._references)).pages
        return CacheBytes(
            pages=own,
            scratch=sum(x.nbytes for x in self._workspaces),
            summaries=0 if self._summaries is None else self._summaries.nbytes,
            windows=sum(x.nbytes for x in self._windows().values()),
        )

    def snapshot(self) -> CacheSnapshot:
        """A copy on the CPU of all that the cache holds, for ``restore``; nothing is rounded."""
        self._between_blocks("snapshot")
        stored = {
            name: x.to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, x in self._stored().items()
        }
        parts = (self.layout, self.policy, self.codec)
        return CacheSnapshot.of(*parts, stored, self._table.pages, self._film)

    def restore(self, snapshot: CacheSnapshot) -> None:
        """Take over the contents of a snapshot, on this cache's device; drop a block in progress.

        Raises:
            ValueError: the snapshot is of another layout, window policy or codec, or incomplete.
        """
        instance("what is restored", snapshot, CacheSnapshot, why="snapshot() gives one.")
        snapshot.check(self.layout, self.policy, self.codec)
        self.reset()
        self._table.load(snapshot.pages)
        for slot in self._table.used:
            self._references.claim(slot)
        stored = self._stored()
        if lost := sorted(stored.keys() - snapshot.tensors.keys()):
            self.reset()
            raise ValueError(
                f"the snapshot lacks {lost[0]} ({len(lost)} of {len(stored)} tensors): later "
                f"blocks read them. The cache is empty now; restore from the whole file."
            )
        for name, tensor in stored.items():
            tensor.copy_(snapshot.tensors[name])
        self._film = snapshot.film()

    def reset(self) -> None:
        """Drop every page and begin at block 0 again; the memory is kept for the next video."""
        self._table.clear()
        self._references.keep_only(())
        self._film = Film(page=self.layout.tokens_per_page)
        self._open = None

    def tensors(self) -> dict[str, Tensor]:
        """Everything allocated for this cache and, of its forks, for their pages.

        Of a cache without forks, ``layout.bytes`` is the sum of their sizes: unless a block is in
        progress, memory that was added for forks is given back first.
        """
        self._settle()
        keys, values = self._workspaces
        summaries = {} if self._summaries is None else {"summaries": self._summaries}
        return {
            **self._references.pool.tensors(),
            "workspace.keys": keys,
            "workspace.values": values,
            **summaries,
            **self._windows(),
        }

    def _windows(self) -> dict[str, Tensor]:
        """The windows in E4M3 of the block in progress; there are none between blocks."""
        return {} if self._open is None else self._open.coded_tensors()

    def _settle(self) -> None:
        """Bring pages home that forks, now gone, had kept from their places."""
        if self._open is None:
            self._references.compact()

    def _stored(self) -> dict[str, Tensor]:
        """Everything stored of the pages held, by layer, page and name."""
        stored = {
            f"{layer}.{page}.{name}": tensor
            for layer in range(self.layout.layers)
            for page in self.pages
            for name, tensor in self._references.page(layer, self._table.slot(page)).items()
        }
        return {**stored, **{f"{page}.summary": x for page, x in self._page_summaries().items()}}

    def _page_summaries(self) -> dict[int, Tensor]:
        if self._summaries is None:
            return {}
        return {page: self._summaries[self._table.slot(page)] for page in self.pages}

    def _choice(self, block: int) -> PageChoice:
        """What the policy shows a block and retains, of what no shot has forgotten."""
        if isinstance(self.policy, ContentPolicy):
            past = {page: x for page, x in self._page_summaries().items() if page != block}
            visible, retained = self.policy.choose(block, self.shot_start, past)
        else:
            visible = self.policy.visible(block, self.shot_start)
            retained = self.policy.retained(block, self.shot_start)
        return PageChoice(self._remembered(visible), self._remembered(retained))

    def _remembered(self, pages: Iterable[int]) -> tuple[int, ...]:
        """Those pages that were not dropped by a shot that forgets."""
        lasting = self.policy.lasting if isinstance(self.policy, LastingPages) else ()
        return tuple(page for page in pages if page >= self._film.forgotten or page in lasting)

    def _forget(self, anchor: int) -> None:
        self._film.shot_start = self._film.forgotten = anchor
        self._table.keep(self._remembered(self.pages))
        self._drop_the_rest()

    def _drop_the_rest(self) -> None:
        """Let go of everything about pages that the table has dropped."""
        self._references.keep_only(self._table.used)
        self._film.keep(self.pages)

    def _begin(self, page: int, visible: tuple[int, ...]) -> None:
        slot, seen = self._table.slot(page), self._table.slots(visible)
        self._references.claim(slot)
        lengths = [len(self._film.spans[self._table.page(other)]) for other in seen]
        self._open = OpenBlock(page, slot, seen, lengths, self._references, self._workspaces)
        show_window(self._layers, self._open)

    def _in_progress(self, what: str) -> OpenBlock:
        if self._open is None:
            raise ValueError(
                f"{what} outside a block: no block is in progress. "
                f"Call begin_block({self.blocks}) first."
            )
        return self._open

    def _layer(self, what: str, layer: int) -> int:
        last = self.layout.layers - 1
        why = "layers are counted from 0. Build the CacheLayout for all layers of the model."
        return whole(f"{what}'s layer", layer, at_least=0, at_most=last, why=why)

    def _between_blocks(self, what: str) -> None:
        if self._open is not None:
            raise ValueError(
                f"{what} in the middle of block {self._open.page}: its keys and values are not "
                f"final yet. Call it after commit()."
            )
