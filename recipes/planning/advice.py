"""The smallest change that makes a model fit: changes are tried one by one, then in pairs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations

from longlive_recipes.planning.hardware import Hardware
from longlive_recipes.planning.memory import Choice, Memory, memory_of
from longlive_recipes.planning.sizes import Sizes


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change of how a model is run.

    Attributes:
        option: what to type.
        cost: how much it takes of quality, speed or money; smaller is tried first.
        apply: makes it.
    """

    option: str
    cost: int
    apply: Callable[[Choice], Choice]


@dataclass(frozen=True, kw_only=True)
class Advice:
    """The changes that make a model fit, in words to type, and its memory then.

    Attributes:
        options: what to type.
        choice: how the model is then run.
        memory: what it then takes.
    """

    options: tuple[str, ...]
    choice: Choice
    memory: Memory


def changes(sizes: Sizes, choice: Choice, hardware: Hardware) -> list[Change]:
    """The changes that can be made of a choice, the least first."""
    found: list[Change] = []
    for precision, cost in (("fp8", 1), ("nvfp4", 2)):
        if _bits(choice.kv_cache) > _bits(precision):
            found.append(_kv_cache(precision, cost))
        if _bits(choice.weights) > _bits(precision) and (precision != "fp8" or hardware.fp8):
            found.append(_weights(precision, cost))
    if hardware.gpu and not choice.decode_apart:
        option = "--lane device:cuda:1 (a second GPU decodes)"
        found.append(Change(option=option, cost=4, apply=_decode_apart))
    if hardware.gpu and choice.ranks == 1:
        found.append(Change(option="--nproc 2 (a second GPU)", cost=5, apply=_two_ranks))
    for number, size in enumerate(_smaller(sizes, choice)):
        height, width = size
        option = f"a smaller picture ({width}x{height} in the model's settings)"
        found.append(Change(option=option, cost=6 + number, apply=_picture(size)))
    return found


def advise(sizes: Sizes, choice: Choice, hardware: Hardware) -> Advice | None:
    """The fewest changes, and of those the least, that make it fit; None if none do."""
    known = changes(sizes, choice, hardware)
    for count in range(1, 5):
        together = sorted(
            (some for some in combinations(known, count) if _go_together(some)),
            key=lambda some: sum(change.cost for change in some),
        )
        for some in together:
            changed = choice
            for change in some:
                changed = change.apply(changed)
            memory = memory_of(sizes, changed, hardware)
            if fits(memory, hardware):
                options = tuple(change.option for change in some)
                return Advice(options=options, choice=changed, memory=memory)
    return None


def fits(memory: Memory, hardware: Hardware) -> bool:
    """Whether a device has room for it, beside what no model gets."""
    return memory.peak <= hardware.memory - hardware.reserved


def _go_together(some: tuple[Change, ...]) -> bool:
    """Whether no two are of the same option."""
    words = [change.option.split(" ")[0] for change in some]
    return len(set(words)) == len(words)


def _bits(precision: str) -> float:
    return {"fp32": 32, "bf16": 16, "fp8": 8, "int8": 8}.get(precision, 4)


def _kv_cache(precision: str, cost: int) -> Change:
    return Change(
        option=f"--kv-cache {precision}",
        cost=cost,
        apply=lambda choice: replace(choice, kv_cache=precision),
    )


def _weights(precision: str, cost: int) -> Change:
    return Change(
        option=f"--weights {precision}",
        cost=cost,
        apply=lambda choice: replace(choice, weights=precision),
    )


def _decode_apart(choice: Choice) -> Choice:
    return replace(choice, decode_apart=True)


def _two_ranks(choice: Choice) -> Choice:
    return replace(choice, ranks=2)


def _picture(size: tuple[int, int]) -> Callable[[Choice], Choice]:
    return lambda choice: replace(choice, image=size)


def _smaller(sizes: Sizes, choice: Choice) -> Iterator[tuple[int, int]]:
    """Three quarters, a half, three eighths and a quarter of each side, in whole tokens."""
    settings, wan = sizes.spec.settings, sizes.spec.transformer
    height, width = choice.image or (settings.height, settings.width)
    steps = [sizes.spec.vae.spatial_stride * patch for patch in wan.patch_size[1:]]
    for eighths in (6, 4, 3, 2):
        sides = [
            max(step, side * eighths // 8 // step * step)
            for side, step in zip((height, width), steps, strict=True)
        ]
        yield sides[0], sides[1]
