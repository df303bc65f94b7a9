"""BalancedPartition: which rank holds which frames, and where their tokens lie, in integers.

Source: LongLive-2.0 (arXiv 2605.18739), Balanced SP: every rank holds the clean and the noisy copy
of the same frames, so that tokens, losses and VAE work are equal, and the exchange needs no
permutation.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import NamedTuple

from longlive_core.checks import hold_wholes, whole


class Place(NamedTuple):
    """The frame and the block that a token belongs to, and which copy of them.

    Attributes:
        frame: latent frame of the video, from 0.
        block: the block of that frame, from 0.
        noisy: whether the token is of the noisy copy; False where there is one copy.
    """

    frame: int
    block: int
    noisy: bool


def split_evenly(count: int, ranks: int) -> tuple[range, ...]:
    """``count`` things over ``ranks`` ranks, in order; the first ``count % ranks`` get one more."""
    count = whole("a count to split", count, at_least=0, why="things are whole.")
    ranks = whole("ranks", ranks, at_least=1, at_most=2**20, why="something has to take them.")
    each, more = divmod(count, ranks)
    edges = accumulate((each + (rank < more) for rank in range(ranks)), initial=0)
    return tuple(range(start, stop) for start, stop in pairwise(edges))


@dataclass(frozen=True, kw_only=True)
class BalancedPartition:
    """A video of ``frames`` latent frames over ``ranks`` ranks, in whole blocks.

    A rank holds consecutive blocks: as many as every other, or one more on the first ranks if they
    do not divide. The last block of a video may be shorter. With ``copies=2`` (teacher forcing) a
    rank holds its frames twice, ``[clean | noisy]``; with 1 (generation, or a plain sequence) once.
    Where ranks should split a single block, count ``frames_per_block=1``.

    After the exchange the tokens of rank 0 come first, then those of rank 1, and so on: for two
    copies ``[c0, n0, c1, n1, ...]``, for one copy the video in its own order.

    Raises:
        ValueError: a size below 1, ``copies`` other than 1 or 2, or fewer blocks than ranks.
    """

    frames: int
    ranks: int
    tokens_per_frame: int
    frames_per_block: int = 1
    copies: int = 2

    def __post_init__(self) -> None:
        sizes = "frames ranks tokens_per_frame frames_per_block"
        why = "a video has at least one of each. Take the sizes from the model and the clip."
        hold_wholes(self, sizes, at_least=1, why=why)
        why = "each is a process of its own, up to a million of them."
        hold_wholes(self, "ranks", at_least=1, at_most=2**20, why=why)
        why = "a rank holds its frames twice (clean and noisy) or once."
        hold_wholes(self, "copies", at_least=1, at_most=2, why=why)
        if self.blocks < self.ranks:
            raise ValueError(
                f"{self.frames} frames make {self.blocks} blocks of {self.frames_per_block}, fewer "
                f"than {self.ranks} ranks: a rank without tokens would wait for the others in "
                f"every layer. Use at most {self.blocks} ranks, longer videos or smaller blocks."
            )

    @property
    def blocks(self) -> int:
        """Blocks of the video, the last one perhaps shorter."""
        return -(-self.frames // self.frames_per_block)

    @property
    def tokens(self) -> int:
        """Tokens of the whole sequence, all copies."""
        return self.copies * self.frames * self.tokens_per_frame

    def blocks_of(self, rank: int) -> range:
        """The blocks that a rank holds."""
        why = "ranks are counted from 0."
        rank = whole("a rank", rank, at_least=0, at_most=self.ranks - 1, why=why)
        return split_evenly(self.blocks, self.ranks)[rank]

    def frames_of(self, rank: int) -> range:
        """The frames that a rank holds."""
        blocks = self.blocks_of(rank)
        size = self.frames_per_block
        return range(blocks.start * size, min(blocks.stop * size, self.frames))

    @cached_property
    def tokens_by_rank(self) -> tuple[int, ...]:
        """How many tokens each rank holds, all copies."""
        per_frame = self.copies * self.tokens_per_frame
        return tuple(per_frame * len(self.frames_of(rank)) for rank in range(self.ranks))

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """Frame, block and copy of each run of ``tokens_per_frame`` tokens after the exchange."""
        return tuple(self._lay_out())

    @property
    def frame_order(self) -> tuple[tuple[int, bool], ...]:
        """(frame, noisy) of each run of ``tokens_per_frame`` tokens after the exchange.

        What ``teacher_forcing_mask`` takes as ``order``.
        """
        return tuple((place.frame, place.noisy) for place in self.places)

    @property
    def block_order(self) -> tuple[tuple[int, bool], ...]:
        """(block, noisy) of each run of a block's tokens after the exchange.

        What ``teacher_forcing_table`` takes as ``order``.

        Raises ValueError if the last block is shorter, so that blocks are not runs of one length.
        """
        if self.frames % self.frames_per_block:
            raise ValueError(
                f"{self.frames} frames do not divide into blocks of {self.frames_per_block}: the "
                f"last block is shorter, so that a table over blocks cannot tell where it ends. "
                f"Use frame_order, or a whole number of blocks."
            )
        firsts = self.places[:: self.frames_per_block]
        return tuple((place.block, place.noisy) for place in firsts)

    def locate(self, token: int) -> Place:
        """The frame, block and copy of the token at an index of the exchanged sequence."""
        token = whole("a token", token, why="tokens are counted from 0.")
        if not 0 <= token < self.tokens:
            raise ValueError(
                f"token {token} does not exist: the sequence has tokens 0 to {self.tokens - 1} "
                f"({self.copies} x {self.frames} frames x {self.tokens_per_frame})."
            )
        return self.places[token // self.tokens_per_frame]

    def _lay_out(self) -> Iterator[Place]:
        for rank in range(self.ranks):
            for copy in range(self.copies):
                noisy = copy == 1
                for frame in self.frames_of(rank):
                    yield Place(frame, frame // self.frames_per_block, noisy)
