"""Policies that look at what pages hold, through a small summary of each page's keys."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

Summary = Float[Tensor, "layers samples heads head_dim"]


class PageChoice(NamedTuple):
    """Pages, ascending, the block's own in both; ``visible`` is a part of ``retained``."""

    visible: tuple[int, ...]
    retained: tuple[int, ...]


@runtime_checkable
class ContentPolicy(Protocol):
    """What a cache takes in place of a ``WindowPolicy``: a choice by the keys of the pages held.

    A page's summary is the mean of its keys over their tokens, in float32, taken on the clean pass
    before any encoding. The samples of a batch share one choice. A choice must follow from its
    arguments alone, as it is made again after a restore.
    """

    @property
    def capacity(self) -> int:
        """The most pages ever retained at once, the block's own included."""

    def choose(self, block: int, shot_start: int, summaries: Mapping[int, Summary]) -> PageChoice:
        """What ``block`` sees, and what is held while it is made, of the pages in ``summaries``."""
