"""LayerCache: one layer of a cache, for a module that holds it and for compiled code.

Compiled code sees three operations and a few tensors. Whatever differs between caches, layers,
blocks and slots is a value in ``ticket`` or the length of a window, so that one graph serves all of
them; of several samples there is another for a window that is full, whose samples lie in one run.

A window that lies side by side enters the graph as a tensor that is filled in place, so that
compiled code reads pages where they lie; any other is copied for each read.
"""

import sys
import weakref
from collections.abc import Mapping

import torch
from torch import Tensor

from longlive_core.kv_cache.codec import PageCodec
from longlive_core.kv_cache.layout import CacheLayout
from longlive_core.kv_cache.open_block import Block, LayerMemory, OpenBlock, Visible
from longlive_core.living import living, number_of


class LayerCache:
    """One layer of a ``PagedKVCache``, which gives it and which it does not keep alive.

    Under ``torch.compile`` and ``torch.no_grad`` its two methods are nodes of one graph.
    """

    def __init__(self, cache: LayerMemory, number: int, layer: int, like: Tensor) -> None:
        self._cache = weakref.ref(cache)
        self._layer = layer
        self._ticket = torch.tensor([number, layer], dtype=torch.int64, device="cpu")
        self._like = like  # no tokens: the type, device and other sizes of what is read
        self._window: tuple[Tensor, Tensor] | None = None  # tokens first, so never in one run
        self._tokens = 0

    def __deepcopy__(self, memo: dict[int, object]) -> "LayerCache":
        raise ValueError(
            "a layer of a PagedKVCache is not copied: it stands for pages that the cache holds. "
            "fork() the cache, and give the copied module a layer of the fork."
        )

    def write(self, k: Block, v: Block, *, clean: bool = False) -> None:
        """As ``PagedKVCache.write`` of this layer."""
        if in_a_graph():
            torch.ops.longlive.cache_write(self._ticket, k, v, clean)
        else:
            self._living().write(self._layer, k, v, clean=clean)

    def read(self) -> tuple[Visible, Visible]:
        """As ``PagedKVCache.read`` of this layer."""
        if not in_a_graph():
            return self._living().read(self._layer)
        if self._window is None:
            keys, values = torch.ops.longlive.cache_gather(self._ticket, self._like, self._tokens)
            return keys, values
        keys, values = self._window
        torch.ops.longlive.cache_fill(self._ticket, keys, values)
        return keys.transpose(0, 1), values.transpose(0, 1)

    def show(self, window: tuple[Tensor, Tensor] | None, tokens: int) -> None:
        """What compiled code reads from now on: a window to fill, or so many tokens to gather."""
        self._window, self._tokens = window, tokens

    def _living(self) -> LayerMemory:
        cache = self._cache()
        if cache is None:
            raise ValueError(
                "the cache of this layer is gone: a layer keeps none alive. Hold the PagedKVCache "
                "for as long as its layers are used."
            )
        return cache


def in_a_graph() -> bool:
    """Whether a compiler is tracing this, and no gradient flows: keys that are kept carry none."""
    return torch.compiler.is_compiling() and not torch.is_grad_enabled()


def layers_of(
    cache: LayerMemory, layout: CacheLayout, codec: PageCodec, device: torch.device
) -> dict[int, LayerCache]:
    """A ``LayerCache`` for each layer of a cache that is being made."""
    samples, _, heads, head_dim = layout.page_shape
    number = number_of(cache)
    with torch.inference_mode(False):
        like = torch.empty(samples, 0, heads, head_dim, dtype=codec.dtype, device=device)
        return {layer: LayerCache(cache, number, layer, like) for layer in range(layout.layers)}


def show_window(layers: Mapping[int, LayerCache], block: OpenBlock) -> None:
    """Let compiled code see what a block sees."""
    shared: dict[int, Tensor] = {}  # layers of an encoding codec read one workspace
    for number, layer in layers.items():
        window = block.in_place(number)
        if window is not None:
            keys, values = (shared.setdefault(x.data_ptr(), _tokens_first(x)) for x in window)
            layer.show((keys, values), block.tokens_seen)
        else:
            layer.show(None, block.tokens_seen)


def _tokens_first(x: Tensor) -> Tensor:
    """The same memory as a tensor that is no view, whose number of tokens may change.

    Of a view the compiler would look at the whole memory. Tokens come first, for it asks of its
    inputs whether they are in one run, and makes another graph where the answer differs.
    """
    samples, tokens, *page = x.stride()
    with torch.inference_mode(False):
        alias = x.new_empty(0).set_(
            x.untyped_storage(),
            x.storage_offset(),
            (x.shape[1], x.shape[0], *x.shape[2:]),
            (tokens, samples, *page),
        )
    compiler = sys.modules.get("torch._dynamo")  # its import takes a second: only who compiles pays
    if compiler is not None:
        compiler.maybe_mark_dynamic(alias, 0)
    return alias


def _find(ticket: Tensor) -> tuple[LayerMemory, int]:
    number, layer = ticket.tolist()
    return living(number, "a PagedKVCache"), layer


@torch.library.custom_op("longlive::cache_write", mutates_args=("ticket",))
def _cache_write(ticket: Tensor, k: Tensor, v: Tensor, clean: bool) -> None:
    """Write a layer's keys and values; reads come after, for the ticket is said to change."""
    cache, layer = _find(ticket)
    cache.write(layer, k, v, clean=clean)


@torch.library.custom_op("longlive::cache_fill", mutates_args=("keys", "values"))
def _cache_fill(ticket: Tensor, keys: Tensor, values: Tensor) -> None:
    """Read a layer into its window, [tokens, samples, heads, head_dim]: often there already."""
    cache, layer = _find(ticket)
    for room, x in zip((keys, values), cache.read(layer), strict=True):
        there = room.transpose(0, 1)
        if (x.data_ptr(), x.shape) != (there.data_ptr(), there.shape):
            there.copy_(x)


@torch.library.custom_op("longlive::cache_gather", mutates_args=())
def _cache_gather(ticket: Tensor, like: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """Read a layer into new memory."""
    cache, layer = _find(ticket)
    keys, values = (x.clone(memory_format=torch.contiguous_format) for x in cache.read(layer))
    return keys, values


@_cache_gather.register_fake
def _(ticket: Tensor, like: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    size = (like.shape[0], tokens, *like.shape[2:])
    return like.new_empty(size), like.new_empty(size)
