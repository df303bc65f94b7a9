"""Masks in the forms that other code has them in: a boolean tensor, FlexAttention's ``BlockMask``.

``as_mask`` gives either the face of an ``AttentionMask``. Neither keeps what it makes, for it lives
as long as one call does: where a mask serves many calls, make an ``AttentionMask`` once.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from longlive_core.attention_mask import AnyMask, AttentionMask, TableMask, refuse_blind_queries
from longlive_core.checks import shown

AnyForm = AnyMask | Tensor | BlockMask
"""What masked attention takes for a mask."""


@dataclass(frozen=True, eq=False)
class TensorMask:
    """A boolean tensor [batch or 1, heads or 1, queries, keys], True where a query sees a key."""

    visible: Bool[Tensor, "batch heads queries keys"]

    @property
    def q_len(self) -> int:
        """Queries of each sample."""
        return self.visible.shape[2]

    @property
    def kv_len(self) -> int:
        """Keys of each sample."""
        return self.visible.shape[3]

    def dense(
        self, device: torch.device, batch: int = 1, heads: int = 1
    ) -> Bool[Tensor, "batch heads queries keys"]:
        """The tensor itself, every query of which sees a key (compiled code does not look)."""
        fits = all(
            own in (1, asked)
            for own, asked in zip(self.visible.shape[:2], (batch, heads), strict=True)
        )
        if not fits:
            raise ValueError(
                f"a mask of {list(self.visible.shape)} for {batch} samples and {heads} query "
                f"heads: it is [batch or 1, heads or 1, queries, keys], or [queries, keys]. Give "
                f"each sample and head its part, or one to all."
            )
        visible = self.visible.to(device)
        if not torch.compiler.is_compiling():
            refuse_blind_queries(visible.any(-1))
        return visible

    def flex(self, device: torch.device, batch: int = 1, heads: int = 1) -> BlockMask:
        """The mask in tiles: made for this call, which takes longer than reading it once."""
        visible = self.dense(device, batch, heads)
        samples, per_head = visible.shape[:2]

        def mask_mod(b: Tensor, h: Tensor, q: Tensor, kv: Tensor, table: Tensor) -> Tensor:
            return table[b % samples, h % per_head, q, kv]

        rule = AttentionMask(mask_mod, self.q_len, self.kv_len, (visible,))
        return rule.flex(device, samples, per_head)


@dataclass(frozen=True, eq=False)
class TiledMask:
    """FlexAttention's mask: tiles that are full, hidden, or visible by its ``mask_mod``."""

    tiles: BlockMask

    @property
    def q_len(self) -> int:
        """Queries of each sample."""
        return self.tiles.seq_lengths[0]

    @property
    def kv_len(self) -> int:
        """Keys of each sample."""
        return self.tiles.seq_lengths[1]

    def dense(
        self, device: torch.device, batch: int = 1, heads: int = 1
    ) -> Bool[Tensor, "batch heads queries keys"]:
        """The whole mask, one byte a pair, made from tiles and rule at each call."""
        tiles = self.tiles.to(device)
        full = torch.zeros((), dtype=torch.bool, device=device)
        if tiles.full_kv_num_blocks is not None and tiles.full_kv_indices is not None:
            full = self._spread(tiles.full_kv_num_blocks, tiles.full_kv_indices)
        rule = AttentionMask(tiles.mask_mod, self.q_len, self.kv_len)
        partial = self._spread(tiles.kv_num_blocks, tiles.kv_indices)
        visible = full | (partial & rule.rows(device, batch, heads))
        return TensorMask(visible).dense(device, batch, heads)

    def flex(self, device: torch.device, batch: int = 1, heads: int = 1) -> BlockMask:
        """The mask itself."""
        return self.tiles.to(device)

    def _spread(self, counts: Tensor, columns: Tensor) -> Tensor:
        """[.., rows of tiles] and [.., rows of tiles, tiles] -> True for the tokens of those."""
        index = torch.arange(columns.shape[-1], dtype=counts.dtype, device=columns.device)
        listed = index < counts[..., None]
        found = torch.zeros_like(columns, dtype=torch.int32)
        found.scatter_reduce_(-1, columns.long(), listed.int(), "amax")
        height, width = self.tiles.BLOCK_SIZE
        spread = found.bool().repeat_interleave(height, -2).repeat_interleave(width, -1)
        return spread[..., : self.q_len, : self.kv_len]


def as_mask(mask: AnyForm) -> AnyMask | TensorMask | TiledMask:
    """The mask with ``q_len``, ``kv_len``, ``dense``, ``flex``. Raises ValueError for no mask."""
    if isinstance(mask, AttentionMask | TableMask):
        return mask
    if isinstance(mask, BlockMask):
        return TiledMask(mask)
    if isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.ndim in (2, 4):
        return TensorMask(mask if mask.ndim == 4 else mask[None, None])
    got = f"{mask.dtype} {list(mask.shape)}" if isinstance(mask, Tensor) else shown(mask)
    raise ValueError(
        f"masked_attention takes an AttentionMask, a TableMask, a BlockMask, a boolean tensor "
        f"[queries, keys] or [batch, heads, queries, keys], or None, got {got}: True is where a "
        f"query sees a key. Of a mask that is added to scores, pass mask > -inf."
    )
