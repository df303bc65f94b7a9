"""CacheLayout: the sizes of a cache, and the bytes it takes."""

from dataclasses import dataclass

import torch

from longlive_core.checks import hold_switches, hold_wholes, instance, shown, whole
from longlive_core.kv_cache.codec import PageCodec, PageShape
from longlive_core.kv_cache.content import ContentPolicy
from longlive_core.kv_cache.window import WindowPolicy
from longlive_core.memory import require_room


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheBytes:
    """The memory of a cache, in bytes.

    Attributes:
        pages: keys and values of all layers.
        scratch: the workspace that all layers share.
        summaries: the mean keys that a ``ContentPolicy`` chooses by.
        windows: what attention in eight bits reads, while a block is made.
    """

    pages: int
    scratch: int
    summaries: int = 0
    windows: int = 0

    @property
    def total(self) -> int:
        """The sum of the four, in bytes."""
        return self.pages + self.scratch + self.summaries + self.windows


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLayout:
    """What one page holds: one block of latent frames, one layer, all heads of this rank.

    Attributes:
        layers: transformer layers, each with keys and values of its own.
        heads: attention heads on this rank.
        head_dim: channels of a head.
        tokens_per_page: tokens of one block.
        samples: videos generated side by side; guidance counts as further samples.
        rotated: whether keys carry their absolute positions (RoPE applied before the cache).
    """

    layers: int
    heads: int
    head_dim: int
    tokens_per_page: int
    samples: int = 1
    rotated: bool = True

    def __post_init__(self) -> None:
        sizes = "layers heads head_dim tokens_per_page samples"
        why = "a cache has at least one of each. Take the sizes from the model's configuration."
        hold_wholes(self, sizes, at_least=1, why=why)
        why = "it says whether keys carry positions. Take it from the position policy."
        hold_switches(self, "rotated", why=why)

    @property
    def page_shape(self) -> PageShape:
        """The shape of a page of keys, and of a page of values."""
        return self.samples, self.tokens_per_page, self.heads, self.head_dim

    def block_tokens(self, tokens: int | None) -> int:
        """The tokens of a block that is begun, a whole page's for None. Checked: ``ValueError``."""
        return whole(
            "begin_block's tokens",
            self.tokens_per_page if tokens is None else tokens,
            at_least=1,
            at_most=self.tokens_per_page,
            why="a page has room for so many, and a block has one or more. Build the CacheLayout "
            "for the longest block.",
        )

    def bytes(
        self, codec: PageCodec, pages: int, *, summaries: bool = False, windows: bool = False
    ) -> CacheBytes:
        """What a cache of ``pages`` pages takes under ``codec``, exactly.

        A cache holds as many pages as its policy's ``capacity`` says, and a summary of each under a
        ``ContentPolicy``. Forks add what they write of their own, and their own scratch. With
        ``windows``, those of a block that sees all the pages are counted, without their scales.
        """
        instance("the codec of a cache", codec, PageCodec, why="it stores pages. Use PlainCodec().")
        pages = whole("pages", pages, at_least=0, why="a cache holds so many at once.")
        samples, tokens, heads, head_dim = self.page_shape
        decoded = samples * tokens * heads * head_dim * codec.dtype.itemsize
        return CacheBytes(
            pages=2 * self.layers * pages * codec.page_bytes(self.page_shape),
            scratch=2 * codec.workspace_pages(pages) * decoded,
            summaries=pages * self.layers * samples * heads * head_dim * 4 if summaries else 0,
            windows=2 * self.layers * pages * samples * tokens * heads * head_dim if windows else 0,
        )

    def require_room(
        self,
        codec: PageCodec,
        policy: WindowPolicy | ContentPolicy,
        device: torch.device,
        windows: bool = False,
    ) -> None:
        """Raise ValueError if a cache under ``policy`` is more than a device's whole memory."""
        why = "it says which pages a block sees. Pass Window(), or a policy of your own."
        instance("the policy of a cache", policy, WindowPolicy, ContentPolicy, why=why)
        summaries = isinstance(policy, ContentPolicy)
        require_room(
            f"keys and values in {shown(policy.capacity)} pages",
            self.bytes(codec, policy.capacity, summaries=summaries, windows=windows).total,
            device,
            why=f"{self} under {policy}. Take a smaller window, fewer samples, or a codec of "
            f"fewer bits.",
        )
