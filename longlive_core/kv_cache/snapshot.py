"""CacheSnapshot: the contents of a cache between two blocks, as tensors and plain values."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any

from torch import Tensor

from longlive_core.checks import instance
from longlive_core.kv_cache.codec import PageCodec
from longlive_core.kv_cache.film import Film
from longlive_core.kv_cache.layout import CacheLayout


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CacheSnapshot:
    """What ``PagedKVCache.snapshot`` makes and ``restore`` reads.

    Attributes:
        layout: the cache's sizes.
        policy: its window policy, as text: ``describe``.
        codec: its codec, as ``PageCodec.to_dict`` names it.
        tensors: what is stored of the pages held, on the CPU, contiguous, by name.
        pages: the page in each slot; None where a slot is free.
        blocks: blocks committed so far.
        shot_start: the page that anchors the current shot.
        forgotten: pages before this one were dropped by a shot that forgets, all but lasting ones.
        short: tokens of the pages held that are shorter than the longest block.
        starts: the first tokens of the pages held that follow on shorter ones.
        film_tokens: tokens of all blocks committed; None if all blocks were of a whole page.
    """

    layout: CacheLayout
    policy: str
    codec: Mapping[str, str | int]
    tensors: dict[str, Tensor]
    pages: tuple[int | None, ...]
    blocks: int
    shot_start: int
    forgotten: int
    short: dict[int, int]
    starts: dict[int, int] = field(default_factory=dict)
    film_tokens: int | None = None

    @classmethod
    def of(
        cls,
        layout: CacheLayout,
        policy: object,
        codec: PageCodec,
        tensors: dict[str, Tensor],
        pages: tuple[int | None, ...],
        film: Film,
    ) -> "CacheSnapshot":
        """What a cache of these parts remembers."""
        return cls(
            layout=layout,
            policy=describe(policy),
            codec=codec.to_dict(),
            tensors=tensors,
            pages=pages,
            blocks=film.blocks,
            shot_start=film.shot_start,
            forgotten=film.forgotten,
            short=film.short,
            starts=film.starts,
            film_tokens=film.tokens,
        )

    def to_dict(self) -> dict[str, Any]:
        """All but ``tensors``, as values that JSON can hold: those go into a safetensors file."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        del values["tensors"]
        starts = {str(page): first for page, first in values.pop("starts").items()}
        tokens, whole = values.pop("film_tokens"), self.blocks * self.layout.tokens_per_page
        moved = {} if tokens in (None, whole) else {"starts": starts, "film_tokens": tokens}
        return {
            **values,
            **moved,
            "layout": asdict(self.layout),
            "codec": dict(self.codec),
            "pages": list(self.pages),
            "short": {str(page): tokens for page, tokens in self.short.items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], tensors: dict[str, Tensor]) -> "CacheSnapshot":
        """The snapshot whose ``to_dict`` and ``tensors`` these are.

        Raises:
            ValueError: names that lack, or values of another kind.
        """
        _check_values(values, tensors)
        layout = values["layout"]
        return cls(
            layout=CacheLayout(
                layers=layout["layers"],
                heads=layout["heads"],
                head_dim=layout["head_dim"],
                tokens_per_page=layout["tokens_per_page"],
                samples=layout["samples"],
                rotated=layout["rotated"],
            ),
            policy=values["policy"],
            codec=values["codec"],
            tensors=tensors,
            pages=tuple(values["pages"]),
            blocks=values["blocks"],
            shot_start=values["shot_start"],
            forgotten=values["forgotten"],
            short={int(page): tokens for page, tokens in values["short"].items()},
            starts={int(page): first for page, first in values.get("starts", {}).items()},
            film_tokens=values.get("film_tokens"),
        )

    def film(self) -> Film:
        """How far the film had come, as a cache keeps it."""
        page, tokens = self.layout.tokens_per_page, self.film_tokens
        held = [page for page in self.pages if page is not None]
        film = Film(
            page=page,
            blocks=self.blocks,
            tokens=self.blocks * page if tokens is None else tokens,
            shot_start=self.shot_start,
            forgotten=self.forgotten,
        )
        film.load(held, self.short, self.starts)
        return film

    def check(self, layout: CacheLayout, policy: object, codec: PageCodec) -> None:
        """Raise ``ValueError`` if a cache of these parts could not go on from here."""
        here = {"layout": layout, "policy": describe(policy), "codec": dict(codec.to_dict())}
        there = {"layout": self.layout, "policy": self.policy, "codec": dict(self.codec)}
        differing = [name for name in here if here[name] != there[name]]
        if differing:
            both = "; ".join(f"{name} {there[name]} there, {here[name]} here" for name in differing)
            raise ValueError(
                f"the snapshot is of another cache: {both}. Only the same codec can read its "
                f"pages, and it has only the pages that its policy keeps. "
                f"Restore into a cache with the same layout, window policy and codec."
            )


def _check_values(values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Raise ``ValueError`` for values that no ``to_dict`` of a snapshot gives."""
    why = "Take what to_dict() and tensors of one snapshot gave."
    kinds: dict[str, tuple[type, ...]] = {"layout": (Mapping,), "codec": (Mapping,)}
    kinds |= {"pages": (list, tuple), "short": (Mapping,), "policy": (str,)}
    kinds |= dict.fromkeys(("blocks", "shot_start", "forgotten"), (int,))
    instance("the values of a CacheSnapshot", values, Mapping, why=why)
    instance("the tensors of a CacheSnapshot", tensors, Mapping, why=why)
    for name, known in kinds.items():
        if name not in values:
            raise ValueError(f"the values of a CacheSnapshot lack {name!r}: {why}")
        instance(f"CacheSnapshot.{name}", values[name], *known, why=why)
    sizes = [one.name for one in fields(CacheLayout)]
    if missing := [name for name in sizes if name not in values["layout"]]:
        raise ValueError(f"the layout of a CacheSnapshot lacks {missing[0]!r}: {why}")


def describe(part: object) -> str:
    """The name of an object's type and its fields: the same in another process."""
    if is_dataclass(part):
        return repr(part)
    state = part.__getstate__()
    return f"{type(part).__qualname__}({state or ''})"


class NotCopied:
    """What ``copy`` and ``pickle`` are told by a thing that is forked or saved in its own way."""

    def __reduce_ex__(self, protocol: object) -> Any:
        raise ValueError(
            f"a {type(self).__name__} is not copied or pickled: it shares its pages with its "
            f"forks, under their lock. fork() gives another that goes on from here; snapshot() "
            f"what it takes to go on later, whose to_dict() and tensors go into a file."
        )
