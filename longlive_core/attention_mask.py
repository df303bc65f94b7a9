"""Masks of attention: which query may see which key, in the forms that backends need."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from longlive_core.checks import hold_wholes, shown
from longlive_core.tensor_checks import dense, place

_TILE = 128  # tokens on a side of one entry of a BlockMask
_CHUNK = 1 << 26  # elements of the dense mask looked at together while tiles are counted

MaskMod = Callable[..., Tensor]
_Form = tuple[torch.device, int, int]  # a device, and how many samples and heads differ


@dataclass(frozen=True, eq=False)
class AttentionMask:
    """Which of ``kv_len`` keys each of ``q_len`` queries may see.

    ``mask_mod(b, h, q, kv, *tables)`` takes integer tensors that broadcast against one another (the
    indices of sample, query head, query and key) and returns a boolean tensor: True where the query
    sees the key. It must be made of tensor arithmetic, without branches on values, for
    FlexAttention compiles it. Tensors that it looks things up in belong in ``tables``: they are
    moved to the device of the question and handed over after the four indices.

    A rule that reads ``b`` or ``h`` gives each sample or head a mask of its own; one that reads
    neither gives all of them one. The shape of what it returns tells which.

    The forms that backends need are made on first use and kept on this object for each device (and
    number of samples and heads, where they count), so build a mask once and pass it to every layer.
    Every query must see at least one key.

    Example, a causal mask over 16 tokens::

        AttentionMask(lambda b, h, q, kv: q >= kv, q_len=16, kv_len=16)
    """

    mask_mod: MaskMod
    q_len: int
    kv_len: int
    tables: tuple[Tensor, ...] = ()
    _reads: dict[torch.device, tuple[bool, bool]] = field(
        default_factory=dict, init=False, repr=False
    )
    _dense: dict[_Form, Tensor] = field(default_factory=dict, init=False, repr=False)
    _flex: dict[_Form, BlockMask] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        why = "a mask is made for a number of tokens, at least one."
        hold_wholes(self, "q_len kv_len", at_least=1, why=why)
        if not callable(self.mask_mod):
            raise ValueError(
                f"AttentionMask.mask_mod is a function of sample, head, query and key, got "
                f"{shown(self.mask_mod)}: it says which pairs are seen. A tensor of True and False "
                f"goes to masked_attention as it is."
            )
        if not isinstance(self.tables, tuple | list):
            raise ValueError(
                f"AttentionMask.tables is a tuple of tensors, got {shown(self.tables)}: they are "
                f"handed to mask_mod. Write tables=(table,)."
            )
        for table in self.tables:
            dense("a table of AttentionMask", table, why="mask_mod looks things up in it.")

    def prepare(self, device: torch.device, batch: int = 1, heads: int = 1) -> None:
        """Make the forms of the mask that ``masked_attention`` needs on this device.

        Making a mask checks values, which a compiled function cannot trace: call this before, with
        the numbers of samples and query heads if the rule reads them.
        """
        device = place("prepare's device", device)
        if device.type == "cuda":
            self.flex(device, batch, heads)
        else:
            self.dense(device, batch, heads)

    def dense(
        self, device: torch.device, batch: int = 1, heads: int = 1
    ) -> Bool[Tensor, "*batch_and_heads queries keys"]:
        """The whole mask, one byte a pair: for short sequences and for the CPU.

        [queries, keys], or [batch, heads, queries, keys] with 1 for what the rule does not read.
        """
        form = self._form(device, batch, heads)
        if form not in self._dense:
            with torch.inference_mode(False):  # it is kept, and may be needed for a gradient
                rows = self._some_rows(0, self.q_len, form)
                refuse_blind_queries(rows.any(-1), 0)
            self._dense[form] = rows[0, 0] if form[1:] == (1, 1) else rows
        return self._dense[form]

    def flex(self, device: torch.device, batch: int = 1, heads: int = 1) -> BlockMask:
        """The mask as FlexAttention reads it: tiles that are empty, full or partly visible.

        Tiles are counted a few rows at a time, so memory does not grow with ``q_len * kv_len``.
        """
        form = self._form(device, batch, heads)
        if form not in self._flex:
            self._flex[form] = self._block_mask(form)
        return self._flex[form]

    def rows(self, device: torch.device, batch: int, heads: int) -> Bool[Tensor, "b h q kv"]:
        """What the rule says of every pair, a query that sees nothing included; nothing is kept."""
        return self._some_rows(0, self.q_len, self._form(device, batch, heads))

    def _form(self, device: torch.device, batch: int, heads: int) -> _Form:
        """The device, and the samples and heads that differ."""
        device = _with_index(device)
        if device not in self._reads:
            zero = functools.partial(torch.zeros, dtype=torch.int64, device=device)
            indices = zero(2, 1, 1, 1), zero(1, 2, 1, 1), zero(1, 1), zero(1)
            seen = _boolean(self.mask_mod(*indices, *self._tables_on(device)))
            shape = (1,) * (4 - seen.ndim) + tuple(seen.shape)
            self._reads[device] = shape[0] == 2, shape[1] == 2
        reads_sample, reads_head = self._reads[device]
        return device, batch if reads_sample else 1, heads if reads_head else 1

    def _block_mask(self, form: _Form) -> BlockMask:
        device, batch, heads = form
        at_once = max(1, _CHUNK // (batch * heads * self.kv_len * _TILE)) * _TILE
        counts = []
        for start in range(0, self.q_len, at_once):
            rows = self._some_rows(start, min(start + at_once, self.q_len), form)
            refuse_blind_queries(rows.any(-1), start)
            counts.append(_visible_in_tiles(rows))
        visible = torch.cat(counts, dim=-2)
        full = visible == _TILE * _TILE
        partial_count, partial_tiles = _in_order((visible > 0) & ~full)
        full_count, full_tiles = _in_order(full)

        mask_mod, tables = self.mask_mod, self._tables_on(device)
        return BlockMask.from_kv_blocks(
            partial_count,
            partial_tiles,
            full_count,
            full_tiles,
            BLOCK_SIZE=_TILE,
            mask_mod=lambda b, h, q, kv: mask_mod(b, h, q, kv, *tables),
            seq_lengths=(self.q_len, self.kv_len),
        )

    def _some_rows(self, start: int, stop: int, form: _Form) -> Tensor:
        """Some queries' rows of the mask: [batch, heads, stop - start, keys]."""
        device, batch, heads = form
        index = functools.partial(torch.arange, dtype=torch.int64, device=device)
        b, h = index(batch)[:, None, None, None], index(heads)[:, None, None]
        q, kv = index(start, stop)[:, None], index(self.kv_len)
        seen = _boolean(self.mask_mod(b, h, q, kv, *self._tables_on(device)))
        return seen.expand(batch, heads, stop - start, self.kv_len)

    def _tables_on(self, device: torch.device) -> tuple[Tensor, ...]:
        return tuple(table.to(device) for table in self.tables)


def refuse_blind_queries(
    sees_something: Bool[Tensor, "batch heads queries"], start: int = 0
) -> None:
    """Raise ``ValueError`` naming the first query that sees no key; ``start`` is its first one."""
    if not bool(sees_something.all()):
        sample, head, query = (~sees_something).nonzero()[0].tolist()
        some = tuple(sees_something.shape[:2]) != (1, 1)
        where = f" of sample {sample} and head {head}" if some else ""
        raise ValueError(
            f"the mask lets query {start + query}{where} see no key: the softmax over nothing is "
            f"undefined, and backends disagree about it. Let every token see itself, or leave the "
            f"token out."
        )


def _boolean(seen: object) -> Tensor:
    """What a rule returned, if it is a mask."""
    if not isinstance(seen, Tensor) or seen.dtype != torch.bool:
        kind = seen.dtype if isinstance(seen, Tensor) else type(seen).__name__
        raise ValueError(
            f"a mask_mod returns a boolean tensor, got {kind}: True is where a query sees a key. "
            f"Compare its arguments, as in q >= kv."
        )
    return seen


def _with_index(device: torch.device) -> torch.device:
    """The device as tensors name it: "cuda" means the current one."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _visible_in_tiles(rows: Tensor) -> Tensor:
    """How many pairs of each tile are visible; what lies beyond the edges counts as unseen."""
    height, width = (-(-size // _TILE) for size in rows.shape[-2:])
    down = height * _TILE - rows.shape[-2]
    right = width * _TILE - rows.shape[-1]
    padded = torch.nn.functional.pad(rows, (0, right, 0, down))
    return padded.unflatten(-1, (width, _TILE)).unflatten(-3, (height, _TILE)).sum((-3, -1))


def _in_order(tiles: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row of tiles: how many are wanted, and their columns, wanted ones first."""
    count = tiles.sum(-1, dtype=torch.int32)
    columns = tiles.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return count, columns.to(torch.int32)


@dataclass(frozen=True, eq=False)
class TableMask:
    """Which runs of tokens see which, sample by sample: a table instead of a rule.

    For batches whose samples differ (in their cuts, say), and for compiled models that get another
    mask at every step: nothing is traced, so nothing is traced again.

    Attributes:
        table: True where a run of queries sees a run of keys; one sample stands for all. Each run
            sees something: a table on the CPU is refused otherwise. One on a GPU is not looked at,
            for that would wait for all that the GPU has to do.
        run: tokens in each run.
    """

    table: Bool[Tensor, "samples queries keys"]
    run: int
    _flex: dict[tuple[torch.device, int], BlockMask] = field(
        default_factory=dict, init=False, repr=False
    )

    def __post_init__(self) -> None:
        hold_wholes(self, "run", at_least=1, why="it is the number of tokens in a run.")
        dense("TableMask.table", self.table, why="it says which runs see which.")
        if self.table.ndim != 3 or self.table.dtype != torch.bool:
            raise ValueError(
                f"TableMask.table is bool [samples, queries, keys], got {self.table.dtype} "
                f"{list(self.table.shape)}: it says which runs see which. For one table for all "
                f"samples pass table[None]."
            )
        if self.table.device.type == "cpu" and not torch.compiler.is_compiling():
            refuse_blind_queries(self.table.any(-1)[:, None].repeat_interleave(self.run, -1))

    @property
    def q_len(self) -> int:
        """Queries of each sample."""
        return self.table.shape[1] * self.run

    @property
    def kv_len(self) -> int:
        """Keys of each sample."""
        return self.table.shape[2] * self.run

    def prepare(self, device: torch.device, batch: int = 1, heads: int = 1) -> None:
        """Make now what masked attention on this device will ask for."""
        if device.type == "cuda" and self.run % _TILE == 0:
            self.flex(device, batch, heads)

    def dense(
        self, device: torch.device, batch: int = 1, heads: int = 1
    ) -> Bool[Tensor, "samples 1 queries keys"]:
        """The whole mask, one byte a pair; heads do not differ."""
        return self._spread(self.run, device, batch)[:, None]

    def flex(self, device: torch.device, batch: int = 1, heads: int = 1) -> BlockMask:
        """The mask as FlexAttention reads it: every tile is empty or full; heads do not differ.

        Raises:
            ValueError: a run is not a whole number of tiles.
        """
        if self.run % _TILE:
            raise ValueError(
                f"FlexAttention reads a TableMask in tiles of {_TILE} tokens, got runs of "
                f"{self.run}: a tile would be partly visible. Use backend='sdpa', or an "
                f"AttentionMask."
            )
        tiles = self._spread(self.run // _TILE, device, batch)
        form = device, len(tiles)
        if form not in self._flex:
            full_count, full_tiles = _in_order(tiles[:, None])
            table, run = self.table.to(device), self.run

            def mask_mod(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
                return table[b % len(table), q // run, kv // run]

            self._flex[form] = BlockMask.from_kv_blocks(
                torch.zeros_like(full_count),
                torch.zeros_like(full_tiles),
                full_count,
                full_tiles,
                BLOCK_SIZE=_TILE,
                mask_mod=mask_mod,
                seq_lengths=(self.q_len, self.kv_len),
            )
        return self._flex[form]

    def check_batch(self, batch: int) -> None:
        """Raise ``ValueError`` unless so many samples can share the tables."""
        samples = len(self.table)
        if batch % samples:
            raise ValueError(
                f"a TableMask of {samples} samples under a batch of {batch}: samples share the "
                f"tables in turn, so theirs is a multiple. Give each sample its table, or one to "
                f"all."
            )

    def _spread(self, times: int, device: torch.device, batch: int) -> Tensor:
        samples = len(self.table)
        if batch > 1:  # 1 is also what is asked for where the batch is not known yet
            self.check_batch(batch)
        table = self.table.to(device).repeat(max(1, batch // samples) if samples > 1 else 1, 1, 1)
        return table.repeat_interleave(times, 1).repeat_interleave(times, 2)


AnyMask = AttentionMask | TableMask
"""Masks that are made once, and keep the forms that backends read."""
