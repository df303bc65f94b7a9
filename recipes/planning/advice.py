"""What to change so that a model fits a device: the same for a plan, for advice, and for a run.

Each change has a cost; of all combinations that fit, the one with the least sum is taken. Under
"lossless", changes that keep the frames come first, all of them together, then precisions; under
"high", precisions come before what takes time.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from longlive_models.vae.decoding import latents_at_once
from longlive_models.vae.tiles import first_tiled_stage
from longlive_recipes.planning.hardware import GIB, Hardware
from longlive_recipes.planning.memory import Choice, Memory, memory_of, resized
from longlive_recipes.planning.sizes import Sizes

FREE = frozenset(
    {"weights", "kv_cache", "vae_latents", "vae_tiles", "offload", "text_encoder", "beside"}
)
"""The fields of a choice that may be changed for a device of less memory."""

TILES = (2, 4, 8)
"""Into how many strips the decoder may cut a frame: more gain little, and compute more twice."""


ROOM = 0.96
"""The share of a device that what is picked takes at most, if it can: peaks are foretold within a
tenth, and an allocator that is short of memory searches for it, which takes time."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change of how a model is run.

    Attributes:
        field: what is changed, a field of ``Choice``.
        option: what to type.
        cost: how much it takes of quality, speed or money; smaller is tried first.
        apply: makes it.
    """

    field: str
    option: str
    cost: int
    apply: Callable[[Choice], Choice]


Lever = tuple[Change, ...]
"""Changes of one field, each with less memory than the one before."""


@dataclass(frozen=True, kw_only=True)
class Advice:
    """The changes that make a model fit, in words to type, and its memory then.

    Attributes:
        options: what to type; none if it fits as it is.
        choice: how the model is then run.
        memory: what it then takes.
    """

    options: tuple[str, ...]
    choice: Choice
    memory: Memory


def fits(memory: Memory, hardware: Hardware) -> bool:
    """Whether a device, and the host, have room for it, beside what no model gets."""
    host = hardware.host is None or memory.host <= hardware.host - GIB
    return host and memory.needed <= hardware.memory - hardware.reserved


def pick(
    sizes: Sizes,
    choice: Choice,
    hardware: Hardware,
    *,
    free: frozenset[str] = FREE,
    quality: str = "lossless",
) -> Advice | None:
    """The least changes of free fields that make it fit, with some room if that can be had.

    None if none do.
    """
    known = [lever for lever in levers(sizes, choice, hardware, quality) if lever[0].field in free]
    roomy = _search(sizes, choice, hardware, known, ROOM)
    return roomy or _search(sizes, choice, hardware, known)


def advise(
    sizes: Sizes,
    choice: Choice,
    hardware: Hardware,
    *,
    free: frozenset[str] = FREE,
    quality: str = "lossless",
) -> Advice | None:
    """The least changes that make it fit; None if none do.

    Those of free fields first; then those of others, another device or a smaller picture.
    """
    for fields in dict.fromkeys((free, FREE)):
        found = pick(sizes, choice, hardware, free=fields, quality=quality)
        if found is not None:
            return found
    known = levers(sizes, choice, hardware, quality)
    for first in _cheapest(_further(sizes, choice, hardware)):
        found = _search(sizes, _changed(choice, first), hardware, known)
        if found is not None:
            options = (*found.options, *(change.option for change in first))
            return replace(found, options=options)
    return None


def smallest(
    sizes: Sizes, choice: Choice, hardware: Hardware, *, free: frozenset[str] = FREE
) -> Memory:
    """What a model takes with every saving that free fields allow."""
    known = levers(sizes, choice, hardware, "lossless")
    last = [lever[-1] for lever in known if lever[0].field in free]
    return memory_of(sizes, _changed(choice, last), hardware)


def levers(sizes: Sizes, choice: Choice, hardware: Hardware, quality: str) -> list[Lever]:
    """The changes that can be made of a choice, by field."""
    rounding = 20 if quality == "lossless" else 2
    found = [_cache_lever(choice, rounding), _weights_lever(choice, hardware, rounding)]
    if hardware.gpu:
        found += [_text_lever(choice), _offload_lever(choice), _turns_lever(choice)]
        found += [_latents_lever(sizes, choice), _tiles_lever(sizes, choice, hardware)]
    return [lever for lever in found if lever]


def _search(
    sizes: Sizes,
    choice: Choice,
    hardware: Hardware,
    known: Sequence[Lever],
    share: float = 1.0,
) -> Advice | None:
    most = share * (hardware.memory - hardware.reserved)
    least = memory_of(sizes, _changed(choice, [lever[-1] for lever in known]), hardware)
    if least.needed > most:
        return None
    for some in _cheapest(known):
        changed = _changed(choice, some)
        memory = memory_of(sizes, changed, hardware)
        if memory.needed <= most and fits(memory, hardware):
            options = tuple(change.option for change in some)
            return Advice(options=options, choice=changed, memory=memory)
    return None


def _cheapest(known: Sequence[Lever]) -> list[tuple[Change, ...]]:
    """All combinations of changes, at most one of each lever, the cheapest first."""
    combined = product(*((None, *lever) for lever in known))
    some = [tuple(one for one in each if one is not None) for each in combined]
    return sorted(some, key=lambda each: (sum(change.cost for change in each), len(each)))


def _changed(choice: Choice, some: Iterable[Change]) -> Choice:
    for change in some:
        choice = change.apply(choice)
    return choice


def _cache_lever(choice: Choice, rounding: int) -> Lever:
    costs = {"bf16": rounding // 2, "fp8": rounding, "nvfp4": rounding + rounding // 2}
    return tuple(
        Change(
            field="kv_cache",
            option=f"--kv-cache {name}",
            cost=cost,
            apply=_with_cache(name),
        )
        for name, cost in costs.items()
        if _bits(name) < _bits(choice.kv_cache)
    )


def _weights_lever(choice: Choice, hardware: Hardware, rounding: int) -> Lever:
    costs = {"fp8": rounding, "nvfp4": rounding + rounding // 2}
    return tuple(
        Change(
            field="weights",
            option=f"--weights {name}",
            cost=cost,
            apply=_with_weights(name),
        )
        for name, cost in costs.items()
        if _bits(name) < _bits(choice.weights) and (name != "fp8" or hardware.fp8)
    )


def _text_lever(choice: Choice) -> Lever:
    if choice.text_encoder != "device":
        return ()

    def apply(choice: Choice) -> Choice:
        return replace(choice, text_encoder="offload")

    option = "--text-encoder offload"
    return (Change(field="text_encoder", option=option, cost=1, apply=apply),)


def _offload_lever(choice: Choice) -> Lever:
    if choice.offload:
        return ()

    def apply(choice: Choice) -> Choice:
        return replace(choice, offload=True)

    return (Change(field="offload", option="--offload", cost=8, apply=apply),)


def _turns_lever(choice: Choice) -> Lever:
    if choice.decode_apart or not choice.beside:
        return ()

    def apply(choice: Choice) -> Choice:
        return replace(choice, beside=False)

    return (Change(field="beside", option="--lane inline", cost=3, apply=apply),)


def _latents_lever(sizes: Sizes, choice: Choice) -> Lever:
    spec = resized(sizes, choice).spec
    rows, columns = spec.latent_size
    at_once = choice.vae_latents or latents_at_once(spec.vae, rows * columns, gpu=True)
    if at_once == 1 or choice.decode_apart:
        return ()

    def apply(choice: Choice) -> Choice:
        return replace(choice, vae_latents=1)

    return (Change(field="vae_latents", option="--vae-latents 1", cost=2, apply=apply),)


def _tiles_lever(sizes: Sizes, choice: Choice, hardware: Hardware) -> Lever:
    """Numbers of strips that take less memory than fewer do, one latent being decoded at a time."""
    spec = resized(sizes, choice).spec
    most = max(spec.latent_size) * 2 ** first_tiled_stage(spec.vae)
    if choice.decode_apart:
        return ()
    alone = replace(choice, vae_latents=choice.vae_latents or 1)
    least, saving = memory_of(sizes, alone, hardware).decoding, []
    for tiles in TILES:
        taken = memory_of(sizes, replace(alone, vae_tiles=tiles), hardware).decoding
        if choice.vae_tiles < tiles <= most and taken < least:
            least = taken
            saving.append(tiles)
    return tuple(
        Change(
            field="vae_tiles",
            option=f"--vae-tiles {tiles}",
            cost=cost,
            apply=_with_tiles(tiles),
        )
        for cost, tiles in enumerate(saving, start=4)
    )


def _further(sizes: Sizes, choice: Choice, hardware: Hardware) -> list[Lever]:
    """Changes that take another device, or make another video."""
    found: list[Lever] = []
    if hardware.gpu and not choice.decode_apart:
        option = "--lane device:cuda:1 (a second GPU decodes)"
        found.append((Change(field="decode_apart", option=option, cost=4, apply=_decode_apart),))
    if hardware.gpu and choice.ranks == 1:
        option = "--nproc 2 (a second GPU)"
        found.append((Change(field="ranks", option=option, cost=5, apply=_two_ranks),))
    if choice.videos > 1:
        option = "--sessions 1 (videos that are open at a time)"
        found.append((Change(field="videos", option=option, cost=3, apply=_one_video),))
    pictures = [
        Change(
            field="image",
            option=f"a smaller picture ({width}x{height} in the model's settings)",
            cost=6 + number,
            apply=_with_picture((height, width)),
        )
        for number, (height, width) in enumerate(_smaller(sizes, choice))
    ]
    return [*found, tuple(pictures)]


def _with_cache(name: str) -> Callable[[Choice], Choice]:
    return lambda choice: replace(choice, kv_cache=name)


def _with_weights(name: str) -> Callable[[Choice], Choice]:
    return lambda choice: replace(choice, weights=name)


def _with_tiles(tiles: int) -> Callable[[Choice], Choice]:
    return lambda choice: replace(choice, vae_tiles=tiles)


def _with_picture(size: tuple[int, int]) -> Callable[[Choice], Choice]:
    return lambda choice: replace(choice, image=size)


def _decode_apart(choice: Choice) -> Choice:
    return replace(choice, decode_apart=True)


def _two_ranks(choice: Choice) -> Choice:
    return replace(choice, ranks=2)


def _one_video(choice: Choice) -> Choice:
    return replace(choice, videos=1)


def _bits(precision: str) -> float:
    return {"fp32": 32, "bf16": 16, "fp8": 8, "int8": 8}.get(precision, 4)


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
