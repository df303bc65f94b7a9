"""Attention masks of training. `README.md` beside this file draws them.

Frames belong to blocks; within a block attention goes both ways. A block sees the past blocks
that a policy shows: all of them without a policy, else those that a cache with the same
``WindowPolicy`` would show, so that training and generation agree.

Source: LongLive-2.0 (arXiv 2605.18739), teacher forcing.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from longlive_core.attention import AttentionMask
from longlive_core.kv_cache import WindowPolicy

Seen = Callable[..., Tensor]


def teacher_forcing_mask(
    frames: int,
    tokens_per_frame: int,
    frames_per_block: int,
    *,
    policy: WindowPolicy | None = None,
    shot_starts: Sequence[int] | None = None,
    order: Sequence[tuple[int, bool]] | None = None,
) -> AttentionMask:
    """The mask over [clean frames | noisy frames], each half ``frames * tokens_per_frame`` long.

    A clean token sees the clean blocks that its block may see, its own among them. A noisy token
    sees the same clean blocks except its own, and the noisy tokens of its own block.
    ``shot_starts`` has for each block the block that anchors its shot (see ``shot_anchors``).
    ``order`` is for frames in another order, as when ranks share a video: for each run of
    ``tokens_per_frame`` tokens, its frame and whether it is the noisy copy.
    """
    half = _tokens(frames, tokens_per_frame, frames_per_block)
    block = frames_per_block * tokens_per_frame
    seen, tables = _seen(-(-frames // frames_per_block), policy, shot_starts)
    if order is not None:
        index = _places(order, frames)
        blocks = torch.tensor(
            [place % frames // frames_per_block for place in index], dtype=torch.int64, device="cpu"
        )
        noisy = torch.tensor([place >= frames for place in index], dtype=torch.bool, device="cpu")
        tables = (*tables, blocks, noisy)

    def mask_mod(b: Tensor, h: Tensor, q: Tensor, kv: Tensor, *tables: Tensor) -> Tensor:
        if order is None:
            q_noisy, kv_noisy = q >= half, kv >= half
            q_block = torch.where(q_noisy, q - half, q) // block
            kv_block = torch.where(kv_noisy, kv - half, kv) // block
        else:
            blocks, noisy = tables[-2:]
            tables = tables[:-2]
            q, kv = q // tokens_per_frame, kv // tokens_per_frame
            q_block, kv_block, q_noisy, kv_noisy = blocks[q], blocks[kv], noisy[q], noisy[kv]
        own = q_block == kv_block
        clean = seen(q_block, kv_block, *tables) & ~(q_noisy & own)
        return (kv_noisy & q_noisy & own) | (~kv_noisy & clean)

    return AttentionMask(mask_mod, 2 * half, 2 * half, tables)


def teacher_forcing_table(
    policy: WindowPolicy,
    shot_starts: Sequence[int],
    *,
    order: Sequence[tuple[int, bool]] | None = None,
) -> Bool[Tensor, "queries keys"]:
    """``teacher_forcing_mask`` in blocks, [clean blocks | noisy blocks], for ``TableMask``.

    For a batch whose clips are cut at different blocks, stack their tables. ``order`` is for blocks
    in another order: for each, its number and whether it is the noisy copy.
    """
    clean = _visible(policy, shot_starts)
    own = torch.eye(len(shot_starts), dtype=torch.bool, device="cpu")
    above = torch.cat((clean, torch.zeros_like(own)), 1)
    below = torch.cat((clean & ~own, own), 1)
    table = torch.cat((above, below))
    if order is None:
        return table
    index = _places(order, len(shot_starts))
    return table[index][:, index]


def block_causal_mask(
    frames: int,
    tokens_per_frame: int,
    frames_per_block: int,
    *,
    first_block_frames: int | None = None,
    policy: WindowPolicy | None = None,
    shot_starts: Sequence[int] | None = None,
) -> AttentionMask:
    """The mask over one copy of the frames: a block sees itself and the past that the policy shows.

    ``first_block_frames`` is for a first block that is shorter, such as one given image.
    """
    total = _tokens(frames, tokens_per_frame, frames_per_block)
    first = frames_per_block if first_block_frames is None else first_block_frames
    if not 0 < first <= frames_per_block:
        raise ValueError(
            f"first_block_frames must be 1 to {frames_per_block}, got {first}: no block is longer "
            f"than frames_per_block. Leave it out for equal blocks."
        )
    lead = (frames_per_block - first) * tokens_per_frame  # tokens that the first block lacks
    block = frames_per_block * tokens_per_frame
    seen, tables = _seen(-(-(total + lead) // block), policy, shot_starts)

    def mask_mod(b: Tensor, h: Tensor, q: Tensor, kv: Tensor, *tables: Tensor) -> Tensor:
        return seen((q + lead) // block, (kv + lead) // block, *tables)

    return AttentionMask(mask_mod, total, total, tables)


def shot_anchors(blocks: int, cuts: Iterable[int]) -> tuple[int, ...]:
    """For each block, the block that anchors its shot when new shots begin at ``cuts``.

    The block of a cut still has the anchor of the shot before, so that it sees the transition.
    """
    starts = sorted({0, *cuts})
    return tuple(max(s for s in starts if s < max(block, 1)) for block in range(blocks))


def _seen(
    blocks: int, policy: WindowPolicy | None, shot_starts: Sequence[int] | None
) -> tuple[Seen, tuple[Tensor, ...]]:
    """The function that says whether a query's block sees a clean key's block, and its table."""
    if policy is None:
        if shot_starts is not None:
            raise ValueError(
                "shot_starts needs a policy: without one every block sees its whole past, "
                "whatever the shots. Pass the cache's window, or leave shot_starts out."
            )
        return _past, ()
    if shot_starts is None:
        shot_starts = (0,) * blocks
    if len(shot_starts) != blocks:
        raise ValueError(
            f"shot_starts must name one block for each of {blocks} blocks, got "
            f"{len(shot_starts)}. Build it with shot_anchors({blocks}, cuts)."
        )
    return _listed, (_visible(policy, shot_starts),)


def _visible(policy: WindowPolicy, shot_starts: Sequence[int]) -> Tensor:
    """True where a block (row) sees a clean block (column)."""
    table = torch.zeros(len(shot_starts), len(shot_starts), dtype=torch.bool, device="cpu")
    for block, start in enumerate(shot_starts):
        table[block, list(policy.visible(block, start))] = True
    return table


def _places(order: Sequence[tuple[int, bool]], count: int) -> list[int]:
    """Where each entry of ``order`` lies in [clean | noisy]; ValueError unless all are there."""
    index = [number + count * noisy for number, noisy in order]
    if sorted(index) != list(range(2 * count)):
        raise ValueError(
            f"order must name the clean and the noisy copy of each of {count} once, got "
            f"{len(index)} entries: every token is of one copy of one frame. Take it from the "
            f"partition that the tokens are exchanged by, for a video of this length."
        )
    return index


def _past(q_block: Tensor, kv_block: Tensor) -> Tensor:
    return kv_block <= q_block


def _listed(q_block: Tensor, kv_block: Tensor, table: Tensor) -> Tensor:
    return table[q_block, kv_block]


def _tokens(frames: int, tokens_per_frame: int, frames_per_block: int) -> int:
    if min(frames, tokens_per_frame, frames_per_block) < 1:
        raise ValueError(
            f"a mask needs frames, tokens_per_frame and frames_per_block of at least 1, got "
            f"{frames}, {tokens_per_frame} and {frames_per_block}."
        )
    return frames * tokens_per_frame
