"""Which query may see which key: one description, read by every masked backend."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from longlive_core.checks import hold_wholes

_TILE = 128  # tokens on a side of one entry of a BlockMask
_CHUNK = 1 << 26  # elements of the dense mask looked at together while tiles are counted

MaskMod = Callable[..., Tensor]


@dataclass(frozen=True, eq=False)
class AttentionMask:
    """Which of ``kv_len`` keys each of ``q_len`` queries may see, for every sample and head alike.

    ``mask_mod(b, h, q, kv, *tables)`` takes integer tensors that broadcast against one another (the
    indices of sample, head, query and key) and returns a boolean tensor: True where the query sees
    the key. It must be made of tensor arithmetic, without branches on values, for FlexAttention
    compiles it. Tensors that it looks things up in belong in ``tables``: they are moved to the
    device of the question and handed over after the four indices.

    The forms that backends need are made on first use and kept on this object for each device, so
    build a mask once and pass it to every layer. Every query must see at least one key.

    Example, a causal mask over 16 tokens::

        AttentionMask(lambda b, h, q, kv: q >= kv, q_len=16, kv_len=16)
    """

    mask_mod: MaskMod
    q_len: int
    kv_len: int
    tables: tuple[Tensor, ...] = ()
    _dense: dict[torch.device, Tensor] = field(default_factory=dict, init=False, repr=False)
    _flex: dict[torch.device, BlockMask] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        why = "a mask is made for a number of tokens, at least one."
        hold_wholes(self, "q_len kv_len", at_least=1, why=why)

    def prepare(self, device: torch.device) -> None:
        """Make now what masked attention on this device will ask for.

        Making a mask checks values, which a compiled function cannot trace: prepare it before.
        """
        if device.type == "cuda":
            self.flex(device)
        else:
            self.dense(device)

    def dense(self, device: torch.device) -> Bool[Tensor, "queries keys"]:
        """The whole mask, one byte a pair: for short sequences and for the CPU."""
        device = _with_index(device)
        if device not in self._dense:
            with torch.inference_mode(False):  # it is kept, and may be needed for a gradient
                rows = self._rows(0, self.q_len, device, self._tables_on(device))
                self._refuse_blind_queries(rows.any(-1), 0)
            self._dense[device] = rows
        return self._dense[device]

    def flex(self, device: torch.device) -> BlockMask:
        """The mask as FlexAttention reads it: tiles that are empty, full or partly visible.

        Tiles are counted a few rows at a time, so memory does not grow with ``q_len * kv_len``.
        """
        device = _with_index(device)
        if device not in self._flex:
            self._flex[device] = self._block_mask(device)
        return self._flex[device]

    def _block_mask(self, device: torch.device) -> BlockMask:
        tables = self._tables_on(device)
        rows_at_once = max(1, _CHUNK // (self.kv_len * _TILE)) * _TILE
        counts = []
        for start in range(0, self.q_len, rows_at_once):
            rows = self._rows(start, min(start + rows_at_once, self.q_len), device, tables)
            self._refuse_blind_queries(rows.any(-1), start)
            counts.append(_visible_in_tiles(rows))
        visible = torch.cat(counts)
        full = visible == _TILE * _TILE
        partial_count, partial_tiles = _in_order((visible > 0) & ~full)
        full_count, full_tiles = _in_order(full)

        mask_mod = self.mask_mod
        return BlockMask.from_kv_blocks(
            partial_count,
            partial_tiles,
            full_count,
            full_tiles,
            BLOCK_SIZE=_TILE,
            mask_mod=lambda b, h, q, kv: mask_mod(b, h, q, kv, *tables),
            seq_lengths=(self.q_len, self.kv_len),
        )

    def _rows(
        self, start: int, stop: int, device: torch.device, tables: tuple[Tensor, ...]
    ) -> Tensor:
        q = torch.arange(start, stop, dtype=torch.int64, device=device)[:, None]
        kv = torch.arange(self.kv_len, dtype=torch.int64, device=device)[None, :]
        zero = torch.zeros((), dtype=torch.long, device=device)
        return self.mask_mod(zero, zero, q, kv, *tables).expand(stop - start, self.kv_len)

    def _tables_on(self, device: torch.device) -> tuple[Tensor, ...]:
        return tuple(table.to(device) for table in self.tables)

    def _refuse_blind_queries(self, sees_something: Tensor, start: int) -> None:
        if not bool(sees_something.all()):
            query = start + int((~sees_something).nonzero()[0])
            raise ValueError(
                f"the mask lets query {query} see no key: the softmax over nothing is undefined, "
                f"and backends disagree about it. Let every token see itself, or leave the "
                f"token out."
            )


def flex_attention_under(
    mask: "AnyMask",
    q: Float[Tensor, "batch heads queries head_dim"],
    k: Float[Tensor, "batch heads keys head_dim"],
    v: Float[Tensor, "batch heads keys head_dim"],
) -> Float[Tensor, "batch heads queries head_dim"]:
    """FlexAttention under ``mask``, compiled at the first call; with gradients."""
    return _compiled_flex_attention()(q, k, v, block_mask=mask.flex(q.device))


@functools.cache
def _compiled_flex_attention() -> Callable:
    return torch.compile(flex_attention, dynamic=False, fullgraph=True)


def _with_index(device: torch.device) -> torch.device:
    """The device as tensors name it: "cuda" means the current one."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _visible_in_tiles(rows: Tensor) -> Tensor:
    """How many pairs of each tile are visible; what lies beyond the edges counts as unseen."""
    height, width = (-(-size // _TILE) for size in rows.shape)
    down = height * _TILE - rows.shape[0]
    right = width * _TILE - rows.shape[1]
    padded = torch.nn.functional.pad(rows, (0, right, 0, down))
    return padded.view(height, _TILE, width, _TILE).sum((1, 3))


def _in_order(tiles: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row of tiles: how many are wanted, and their columns, wanted ones first."""
    count = tiles.sum(-1, dtype=torch.int32)
    columns = tiles.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return count[None, None], columns.to(torch.int32)[None, None]


@dataclass(frozen=True, eq=False)
class TableMask:
    """Which runs of tokens see which, sample by sample: a table instead of a rule.

    For batches whose samples differ (in their cuts, say), and for compiled models that get another
    mask at every step: nothing is traced, so nothing is traced again.

    Attributes:
        table: True where a run of queries sees a run of keys; one sample stands for all.
        run: tokens in each run.
    """

    table: Bool[Tensor, "samples queries keys"]
    run: int
    _flex: dict[torch.device, BlockMask] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        hold_wholes(self, "run", at_least=1, why="it is the number of tokens in a run.")
        if self.table.ndim != 3 or self.table.dtype != torch.bool:
            raise ValueError(
                f"TableMask.table is bool [samples, queries, keys], got {self.table.dtype} "
                f"{list(self.table.shape)}: it says which runs see which. For one table for all "
                f"samples pass table[None]."
            )

    @property
    def q_len(self) -> int:
        """Queries of each sample."""
        return self.table.shape[1] * self.run

    @property
    def kv_len(self) -> int:
        """Keys of each sample."""
        return self.table.shape[2] * self.run

    def dense(self, device: torch.device) -> Bool[Tensor, "samples 1 queries keys"]:
        """The whole mask, one byte a pair."""
        return self._spread(self.run, device)[:, None]

    def flex(self, device: torch.device) -> BlockMask:
        """The mask as FlexAttention reads it: every tile is empty or full.

        Raises:
            ValueError: a run is not a whole number of tiles.
        """
        if self.run % _TILE:
            raise ValueError(
                f"FlexAttention reads a TableMask in tiles of {_TILE} tokens, got runs of "
                f"{self.run}: a tile would be partly visible. Use backend='sdpa', or an "
                f"AttentionMask."
            )
        if device not in self._flex:
            tiles = self._spread(self.run // _TILE, device)
            full_count, full_tiles = (x[0, 0][:, None] for x in _in_order(tiles))
            table, run = self.table.to(device), self.run

            def mask_mod(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
                return table[b % len(table), q // run, kv // run]

            self._flex[device] = BlockMask.from_kv_blocks(
                torch.zeros_like(full_count),
                torch.zeros_like(full_tiles),
                full_count.contiguous(),
                full_tiles.contiguous(),
                BLOCK_SIZE=_TILE,
                mask_mod=mask_mod,
                seq_lengths=(self.q_len, self.kv_len),
            )
        return self._flex[device]

    def _spread(self, times: int, device: torch.device) -> Tensor:
        table = self.table.to(device)
        return table.repeat_interleave(times, 1).repeat_interleave(times, 2)


AnyMask = AttentionMask | TableMask
"""What masked attention takes."""
