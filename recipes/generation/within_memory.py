"""``--max-memory``: the settings with which a run takes no more of a device than it may.

What a caller chose stays; what is left to "auto" is picked by the same formulas and costs as
`longlive plan` has.
"""

from dataclasses import replace
from typing import TypeVar

import torch

from longlive_models.runtime import Runtime
from longlive_recipes.configs.generate import Generate
from longlive_recipes.configs.plan import PlanWishes
from longlive_recipes.configs.serve import Serve
from longlive_recipes.plan import choose
from longlive_recipes.planning.advice import advise, pick, smallest
from longlive_recipes.planning.hardware import GIB, Hardware, here, within
from longlive_recipes.planning.memory import Choice
from longlive_recipes.planning.sizes import Sizes, sizes_of

Config = TypeVar("Config", Generate, Serve)


def within_memory(
    config: Config, *, ranks: int = 1, videos: int = 1
) -> tuple[Config, tuple[str, ...]]:
    """The config with the settings that keep to its ``max_memory``, and what is to be said of it.

    Args:
        config: the config; without ``max_memory`` it stays as it is.
        ranks: how many ranks share each video.
        videos: how many videos are open at a time.

    Raises:
        ValueError: nothing that is left to "auto" makes it fit; the message has what would.
    """
    if config.max_memory is None:
        return config, ()
    wishes = wishes_of(config, ranks=ranks, videos=videos)
    hardware = within(here(config.device, rates=False), config.max_memory)
    sizes = sizes_of(config.model, vae=config.vae, download=config.download)
    choice = choose(wishes, sizes, hardware)
    found = pick(sizes, choice, hardware, free=wishes.free, quality=config.quality)
    if found is None:
        raise ValueError(_refusal(wishes, sizes, choice, hardware))
    picked = found.choice
    settled = replace(
        config,
        weights=picked.weights,
        kv_cache=picked.kv_cache,
        vae_latents=picked.vae_latents,
        vae_tiles=picked.vae_tiles,
        offload=picked.offload,
        text_encoder=picked.text_encoder,
        lane="inline" if choice.beside and not picked.beside else config.lane,
        max_memory=None,
    )
    usable = hardware.memory - hardware.reserved
    changes = " ".join(found.options) or "as it is"
    line = (
        f"within {config.max_memory}: {changes}; {_gib(found.memory.needed)} at most, of "
        f"{_gib(usable)} that can be had"
    )
    return settled, (line,)


def wishes_of(config: Generate | Serve, *, ranks: int = 1, videos: int = 1) -> PlanWishes:
    """What `longlive plan` would be asked for the same run.

    Raises:
        ValueError: there is no such device.
    """
    runtime = Runtime.choose(config)
    own = config if isinstance(config, Generate) else Generate()
    steps = own.steps if isinstance(own.steps, int | None) else own.steps[-1]
    return PlanWishes(
        model=config.model,
        weights=config.weights,
        kv_cache=config.kv_cache,
        steps=steps,
        guidance=own.guidance,
        quality=config.quality,
        vae=config.vae,
        vae_latents=config.vae_latents,
        vae_tiles=config.vae_tiles,
        offload=config.offload,
        text_encoder=config.text_encoder,
        max_memory=config.max_memory,
        ranks=ranks,
        lane="thread" if config.lane.startswith("device:") else config.lane,
        decode_apart=_numbered(runtime.decode_device) != _numbered(runtime.device),
        videos=videos,
    )


def _numbered(device: torch.device) -> tuple[str, int]:
    """A device by its kind and number: "cuda" is the first GPU, as "cuda:0" is."""
    return device.type, device.index or 0


def _refusal(wishes: PlanWishes, sizes: Sizes, choice: Choice, hardware: Hardware) -> str:
    usable = hardware.memory - hardware.reserved
    least = smallest(sizes, choice, hardware, free=wishes.free).needed
    start = (
        f"max_memory={wishes.max_memory!r} leaves {_gib(usable)} of {hardware.name}, and "
        f"{sizes.name} takes {_gib(least)} with every saving that is left to it."
    )
    advice = advise(sizes, choice, hardware, free=wishes.free, quality=wishes.quality)
    if advice is None:
        needed = -(-(least + hardware.reserved) // GIB)
        return f"{start} No change that is known here makes it fit: allow {needed}GB."
    options = ", ".join(advice.options)
    return f"{start} The smallest change that makes it fit: {options}."


def _gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB / 10 else f"{count / 2**20:.0f} MiB"
