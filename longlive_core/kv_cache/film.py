"""What a cache remembers of the blocks of its film. Integers only: no tensors, no device."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from longlive_core.checks import whole


@dataclass(kw_only=True)
class Film:
    """How far a film has come, where its shot began, and which tokens each page held has.

    Attributes:
        page: tokens of the longest block.
        blocks: blocks committed so far.
        tokens: tokens of those blocks.
        shot_start: the page that anchors the current shot.
        forgotten: pages before this one were dropped by a shot that forgets, all but lasting ones.
        spans: of each page held, its tokens, counted from the film's first one.
    """

    page: int
    blocks: int = 0
    tokens: int = 0
    shot_start: int = 0
    forgotten: int = 0
    spans: dict[int, range] = field(default_factory=dict)

    def copy(self) -> "Film":
        """Another that goes on from here."""
        return replace(self, spans=dict(self.spans))

    def begin(self, block: int, tokens: int) -> None:
        """The next block has so many tokens."""
        self.spans[block] = range(self.tokens, self.tokens + tokens)

    def commit(self, page: int) -> None:
        """A page is made: the next block's, or one that is older, made again."""
        if page == self.blocks:
            self.blocks, self.tokens = page + 1, self.spans[page].stop

    def keep(self, held: Collection[int]) -> None:
        """Forget the tokens of every other page."""
        self.spans = {page: span for page, span in self.spans.items() if page in held}

    def frames(self, tokens_per_frame: int) -> dict[int, range]:
        """Of each page held, its frames. Raises ``ValueError`` if a block is of parts of frames."""
        why = "a block is of whole frames. Take it from the model's configuration."
        size = whole("tokens_per_frame", tokens_per_frame, at_least=1, why=why)
        for page, span in self.spans.items():
            if span.start % size or span.stop % size:
                raise ValueError(
                    f"page {page} holds tokens {span.start} to {span.stop} of the film, and a "
                    f"frame has {size}: a block is of whole frames. Begin blocks with tokens= a "
                    f"multiple of {size}."
                )
        return {page: range(x.start // size, x.stop // size) for page, x in self.spans.items()}

    @property
    def short(self) -> dict[int, int]:
        """Tokens of the pages held that are shorter than the longest block."""
        return {page: len(span) for page, span in self.spans.items() if len(span) < self.page}

    @property
    def starts(self) -> dict[int, int]:
        """The first tokens of the pages held that begin earlier than if all were whole."""
        return {
            page: span.start for page, span in self.spans.items() if span.start != page * self.page
        }

    def load(
        self, held: Collection[int], short: Mapping[int, int], starts: Mapping[int, int]
    ) -> None:
        """Take over the pages of a snapshot."""
        firsts = {page: starts.get(page, page * self.page) for page in held}
        self.spans = {
            page: range(first, first + short.get(page, self.page)) for page, first in firsts.items()
        }
