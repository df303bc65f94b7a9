"""Values that are no sizes, numbers or tensors of the right kind, at every public door.

    python -m tests.bad_values

Run in a process of its own, where annotations are not checked: as users have it. Prints a line for
each case that did not end in a ValueError with a sentence, and how many cases there were.
"""

import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from longlive_core.async_decode import AsyncDecodeScheduler, make_lane
from longlive_core.attention import AttentionMask, TableMask, attention, masked_attention
from longlive_core.backends import Request
from longlive_core.kv_cache import (
    AbsolutePositions,
    CacheLayout,
    PagedKVCache,
    PlainCodec,
    RelativePositions,
    Window,
)
from longlive_core.noise import gaussian
from longlive_core.sequence_parallel import (
    BalancedPartition,
    BalancedSP,
    SequenceGroup,
    halo_window,
    split_evenly,
)
from longlive_models.diffusion import (
    FlowSchedule,
    StepSchedule,
    add_noise,
    guide,
    loss_weights,
    shift_sigma,
    sigma_grid,
    step_schedule,
    unipc_schedule,
    velocity,
    velocity_from_x0,
    x0_from_velocity,
)
from longlive_models.text import UMT5_XXL, PocketTextConfig
from longlive_models.vae import POCKET_VAE, VAEConfig
from longlive_models.wan import POCKET, WanConfig, WanTransformer

Case = tuple[str, Callable[[], Any]]

NOT_WHOLE = (1.5, 2.0, "3", None, True, math.nan, math.inf, [1], torch.tensor(1.5), 10**5000)
NOT_POSITIVE = (*NOT_WHOLE, 0, -1, np.int32(-3), -(10**30))
NOT_REAL = ("1", None, True, math.nan, math.inf, -math.inf, [1.0], torch.ones(2), 10**5000)
LAYOUT = {"layers": 2, "heads": 2, "head_dim": 4, "tokens_per_page": 3}
PARTITION = {"frames": 8, "ranks": 2, "tokens_per_frame": 3, "frames_per_block": 2}


def each(name: str, call: Callable[[Any], Any], values: tuple[Any, ...]) -> Iterator[Case]:
    """One case a value."""
    for value in values:
        shown = repr(value) if not isinstance(value, int) or value < 2**99 else "a giant"
        yield f"{name} {shown}", lambda value=value: call(value)


def cache(**sizes: Any) -> PagedKVCache:
    return PagedKVCache(CacheLayout(**{**LAYOUT, **sizes}), Window(), PlainCodec(torch.float32))


def begun(**how: Any) -> PagedKVCache:
    made = cache()
    made.begin_block(0, **how)
    return made


def pages(tokens: int = 3, heads: int = 2, **how: Any) -> torch.Tensor:
    return torch.zeros(1, tokens, heads, 4, **how)


def caches() -> Iterator[Case]:
    for name in LAYOUT:
        yield from each(f"CacheLayout.{name}", lambda v, n=name: cache(**{n: v}), NOT_POSITIVE)
    yield from each("CacheLayout.samples", lambda v: cache(samples=v), NOT_POSITIVE)
    yield from each("CacheLayout.rotated", lambda v: cache(rotated=v), (1, 0, None, "no", math.nan))
    for name in ("pages", "sink", "shot_sink"):
        bad = (*NOT_WHOLE, -1)
        yield from each(f"Window.{name}", lambda v, n=name: Window(**{n: v}), bad)
    yield from each("Window.pages", lambda v: Window(pages=v), (0, 1, 2))
    yield from each(
        "a window past memory",
        lambda v: PagedKVCache(CacheLayout(**LAYOUT), Window(pages=v), PlainCodec()),
        (10**12, 10**30),
    )
    yield from each("a layout past memory", lambda v: cache(tokens_per_page=v), (10**12, 2**80))
    types = (torch.int8, torch.bool, torch.float8_e4m3fn, "bfloat16", None, torch.complex64)
    yield from each("PlainCodec", PlainCodec, types)
    yield from each("begin_block", lambda v: cache().begin_block(v), (*NOT_WHOLE, 1, -1))
    bad = tuple(value for value in NOT_POSITIVE if value is not None)
    yield from each("tokens", lambda v: begun(tokens=v), (*bad, 4))
    bad = (*NOT_WHOLE, -1, 2, 10**9)
    yield from each("write layer", lambda v: begun().write(v, pages(), pages()), bad)

    def read(layer: Any) -> Any:
        made = begun()
        made.write(0, pages(), pages())
        return made.read(layer)

    yield from each("read layer", read, (*NOT_WHOLE, -1, 1, 2))
    yield from each("rewrite", lambda v: cache().begin_rewrite(v), (*NOT_WHOLE, -1, 0))
    shapes = (pages(2), pages(4), pages(3, 1), torch.zeros(3, 2, 4), pages(0))
    yield from each("keys", lambda v: begun().write(0, v, v), shapes)
    yield from each("values", lambda v: begun().write(0, pages(), v), shapes)
    kinds = (pages(dtype=torch.int64), pages(dtype=torch.bool), pages(dtype=torch.complex64))
    yield from each("kinds of keys", lambda v: begun().write(0, v, v), kinds)
    for policy in (AbsolutePositions(), RelativePositions()):
        name = type(policy).__name__
        yield from each(f"{name} block", lambda v, p=policy: p.places((0,), v, 2), (*NOT_WHOLE, -1))
        yield from each(f"{name} size", lambda v, p=policy: p.places((0,), 0, v), NOT_POSITIVE)
        yield from each(f"{name} offset", lambda v, p=policy: p.places((0,), 0, 2, v), NOT_REAL)
    yield "relative without itself", lambda: RelativePositions().places((0, 1), 2, 2)


def primitives() -> Iterator[Case]:
    bad = (*NOT_WHOLE, -1, 2**64, np.float32(3), torch.tensor([1, 2]))
    yield from each("seed", lambda v: gaussian(v, [0], (2,)), bad)
    yield from each("frame", lambda v: gaussian(0, [v], (2,)), (*NOT_WHOLE, -1, 2**63))
    yield from each("shape", lambda v: gaussian(0, [0], (v,)), (*NOT_POSITIVE, 2**34))
    yield from each("depth", lambda v: AsyncDecodeScheduler(len, depth=v), NOT_POSITIVE)
    names = ("", "threads", "device:", "device:none", "cuda:1", None, 5, b"inline", ["thread"])
    yield from each("lane", make_lane, names)
    q = torch.zeros(2, 5, 3, 8)

    def attend(k: torch.Tensor, v: torch.Tensor, **how: Any) -> Any:
        return attention(q, k, v, **how)

    others = (
        torch.zeros(2, 4, 3, 8),
        torch.zeros(1, 5, 3, 8),
        torch.zeros(2, 5, 2, 8),  # three heads are no multiple of two
        torch.zeros(2, 5, 3, 4),
        torch.zeros(2, 5, 24),
        torch.zeros(2, 5, 3, 8, dtype=torch.float64),
        torch.zeros(2, 5, 3, 8, dtype=torch.int64),
        torch.zeros(2, 5, 3, 8, device="meta"),
        torch.zeros(2, 0, 3, 8),
    )
    yield from each("values of attention", lambda v: attend(q, v), others)
    yield from each("keys of attention", lambda v: attend(v, q), others)
    yield from each("both of attention", lambda v: attend(v, v), others[1:])
    bad = tuple(value for value in NOT_REAL if value is not None)
    yield from each("scale of attention", lambda v: attend(q, q, scale=v), bad)
    mask = TableMask(torch.ones(1, 1, 1, dtype=torch.bool), 5)
    yield from each("masked values", lambda v: masked_attention(q, q, v, mask), others)
    for name in ("q_len", "kv_len"):
        sizes = {"q_len": 2, "kv_len": 2}
        yield from each(
            f"AttentionMask.{name}",
            lambda v, n=name, s=sizes: AttentionMask(lambda b, h, q, kv: q >= kv, **{**s, n: v}),
            NOT_POSITIVE,
        )
    yes = torch.ones(1, 2, 2, dtype=torch.bool)
    yield from each("TableMask.run", lambda v: TableMask(yes, v), NOT_POSITIVE)
    yield from each("TableMask.table", lambda v: TableMask(v, 2), (yes[0], yes.float(), yes[None]))
    cpu, kind = torch.device("cpu"), torch.float32
    bad = tuple(value for value in NOT_POSITIVE if value is not None)
    yield from each("head_dim", lambda v: Request(device=cpu, dtype=kind, head_dim=v), bad)
    for name in PARTITION:
        yield from each(
            f"BalancedPartition.{name}",
            lambda v, n=name: BalancedPartition(**{**PARTITION, n: v}),
            NOT_POSITIVE,
        )
    yield from each(
        "copies", lambda v: BalancedPartition(**PARTITION, copies=v), (*NOT_WHOLE, 0, 3)
    )
    whole = BalancedPartition(**PARTITION)
    yield from each("rank", whole.blocks_of, (*NOT_WHOLE, -1, 2))
    yield from each("rank of frames", whole.frames_of, (*NOT_WHOLE, -1, 2))
    yield from each("token", whole.locate, (*NOT_WHOLE, -1, 48))
    yield from each("group rank", lambda v: SequenceGroup(rank=v), (*NOT_WHOLE, -1, 1))
    yield from each("group size", lambda v: SequenceGroup(size=v), (*NOT_POSITIVE, 2))
    yield from each("split", lambda v: split_evenly(v, 2), (*NOT_WHOLE, -1))
    yield from each("split over", lambda v: split_evenly(4, v), NOT_POSITIVE)
    yield from each(
        "heads",
        lambda v: BalancedSP(SequenceGroup(), replace(whole, ranks=1), heads=v),
        NOT_POSITIVE,
    )
    bad = (*NOT_WHOLE, range(0), range(0, 4, 2), range(-1, 2))
    yield from each("halo keep", lambda v: halo_window(v, halo=1, stride=4), bad)
    yield from each("halo", lambda v: halo_window(range(2), halo=v, stride=4), (*NOT_WHOLE, -1))
    yield from each("stride", lambda v: halo_window(range(2), halo=1, stride=v), NOT_POSITIVE)


def schedules() -> Iterator[Case]:
    not_shift = (*NOT_REAL, 0, -1.0, 1e300)
    for make in (step_schedule, unipc_schedule):
        name = make.__name__
        yield from each(f"{name} steps", make, (*NOT_POSITIVE, 10**9))
        yield from each(f"{name} shift", lambda v, m=make: m(4, v), not_shift)
    yield from each("grid steps", lambda v: sigma_grid(v, 5.0), (*NOT_POSITIVE, 10**9))
    yield from each("grid shift", lambda v: sigma_grid(4, v), not_shift)
    yield from each("grid first", lambda v: sigma_grid(4, 5.0, first=v), (*NOT_REAL, -0.1, 1.1))
    yield from each("grid last", lambda v: sigma_grid(4, 5.0, last=v), (*NOT_REAL, -0.1, 1.1))
    yield from each("FlowSchedule.levels", lambda v: FlowSchedule(levels=v), (*NOT_POSITIVE, 10**9))
    yield from each("FlowSchedule.shift", lambda v: FlowSchedule(shift=v), not_shift)
    yield from each("FlowSchedule.parity", lambda v: FlowSchedule(parity=v), (1, 0, None, "no"))
    draw = {"batch": 1, "frames": 4, "frames_per_block": 2}
    for name in draw:
        yield from each(
            f"draw {name}",
            lambda v, n=name: FlowSchedule().draw(torch.Generator(), **{**draw, n: v}),
            NOT_POSITIVE,
        )
    yield from each("shift_sigma level", lambda v: shift_sigma(v, 5.0), (*NOT_REAL, -0.1, 1.5))
    yield from each("shift_sigma shift", lambda v: shift_sigma(0.5, v), not_shift)
    yield from each("weights", lambda v: loss_weights([v, 3.0]), NOT_REAL)
    yield from each("span", lambda v: loss_weights([1.0, 3.0], span=v), (*NOT_REAL, 0, -1))
    yield "no weights", lambda: loss_weights([])
    x = torch.zeros(1, 2, 3, 4, 4)
    bad = (*(v for v in NOT_REAL if not isinstance(v, torch.Tensor)), -0.1, 1.5)
    for function in (add_noise, x0_from_velocity, velocity_from_x0):
        name = function.__name__
        yield from each(f"{name} level", lambda v, f=function: f(x, x, v), bad)
        yield f"{name} levels", lambda f=function: f(x, x, torch.zeros(5))
    other = (torch.zeros(1, 2, 3, 4, 1), torch.zeros(2, 2, 3, 4, 4), torch.zeros(()))
    for function in (add_noise, x0_from_velocity, velocity_from_x0):
        name = function.__name__
        yield from each(f"{name} shapes", lambda v, f=function: f(x, v, 0.5), other)
    yield from each("velocity shapes", lambda v: velocity(x, v), other)
    yield from each("guide shapes", lambda v: guide(x, v, 2.0), other)
    yield from each("guide scale", lambda v: guide(x, x, v), (*NOT_REAL, 1e308, -1e308))
    yield "velocity at 0", lambda: velocity_from_x0(x, x, 0)
    yield "levels and steps", lambda: StepSchedule(sigmas=(1.0, 0.0), timesteps=(1.0, 0.5))
    yield "no steps", lambda: StepSchedule(sigmas=(0.0,), timesteps=())
    yield from each(
        "levels", lambda v: StepSchedule(sigmas=(v, 0.0), timesteps=(1.0,)), (*NOT_REAL, -1.0)
    )


def configs() -> Iterator[Case]:
    counts = ("dim", "ffn_dim", "num_heads", "num_layers", "in_channels", "out_channels")
    for name in (*counts, "text_dim", "text_len", "freq_dim", "frames_per_block"):
        bad = (*NOT_POSITIVE, 10**7, 10**9)
        yield from each(f"WanConfig.{name}", lambda v, n=name: replace(POCKET, **{n: v}), bad)
    bad = (*NOT_REAL, 0, -1e-6)
    yield from each("WanConfig.eps", lambda v: replace(POCKET, eps=v), (*bad, 2.0))
    yield from each("WanConfig.rope_theta", lambda v: replace(POCKET, rope_theta=v), bad)
    for name in ("qk_norm", "cross_attn_norm"):
        values = (1, 0, None, "yes")
        yield from each(f"WanConfig.{name}", lambda v, n=name: replace(POCKET, **{n: v}), values)
    patches = (
        (1, 2),
        (2, 2, 2),
        (1, 0, 2),
        (1, 2.0, 2),
        (1, -2, 2),
        (1, 10**9, 2),
        (),
        (1, "2", 2),
    )
    yield from each("WanConfig.patch_size", lambda v: replace(POCKET, patch_size=v), patches)
    yield (
        "a transformer past memory",
        lambda: WanTransformer(
            WanConfig(
                dim=2**17,
                ffn_dim=2**17,
                num_heads=1024,
                num_layers=8,
                in_channels=4,
                out_channels=4,
                text_dim=8,
                text_len=8,
                freq_dim=8,
            )
        ),
    )
    sizes = ("encoder_dim", "decoder_dim", "latent_channels", "num_res_blocks", "patch_size")
    for name in sizes:
        bad = (*NOT_POSITIVE, 10**9)
        yield from each(f"VAEConfig.{name}", lambda v, n=name: replace(POCKET_VAE, **{n: v}), bad)
    values = ((), (1, 2), (1, 0, 2), (1, 2.0, 2), (1, 10**9, 10**9), (1,) * 40)
    yield from each("VAEConfig.dim_mult", lambda v: replace(POCKET_VAE, dim_mult=v), values)
    values = ((True,), (True, 1), (True, None), (True, True, True))
    yield from each("halved", lambda v: replace(POCKET_VAE, temporal_downsample=v), values)

    def with_statistic(name: str, value: Any) -> VAEConfig:
        return replace(POCKET_VAE, **{name: (value, *[1.0] * 15)})

    for name in ("latent_mean", "latent_std"):
        yield from each(f"VAEConfig.{name}", lambda v, n=name: with_statistic(n, v), NOT_REAL)
    yield from each("deviation", lambda v: with_statistic("latent_std", v), (0, -1.0))
    words = PocketTextConfig(vocab=("a",))
    for name in ("dim", "text_len", "num_layers", "num_heads", "ffn_dim"):
        bad = (*NOT_POSITIVE, 10**9)
        yield from each(f"PocketTextConfig.{name}", lambda v, n=name: replace(words, **{n: v}), bad)
    for name in ("vocab_size", "dim", "dim_attn", "num_heads", "num_layers", "text_len"):
        bad = (*NOT_POSITIVE, 10**9)
        yield from each(f"UMT5Config.{name}", lambda v, n=name: replace(UMT5_XXL, **{n: v}), bad)


def good() -> Iterator[Case]:
    """What other libraries' numbers are: taken."""
    for one in (np.int32(3), np.int64(3), torch.tensor(3), torch.tensor([3], dtype=torch.int32)):
        yield f"seed {one!r}", lambda v=one: gaussian(v, [0], (2,))
        yield f"frame {one!r}", lambda v=one: gaussian(0, [v], (2,))
        yield f"layers {one!r}", lambda v=one: json.dumps(cache(layers=v).layout.layers)
        yield f"steps {one!r}", lambda v=one: unipc_schedule(v)
        yield f"pages {one!r}", lambda v=one: Window(pages=v)
        yield f"tokens {one!r}", lambda v=one: begun(tokens=v)
    for number in (np.float32(3), 3, torch.tensor(3.0), np.float64(3)):
        yield f"shift {number!r}", lambda v=number: (step_schedule(4, v), FlowSchedule(shift=v))
        yield f"guidance {number!r}", lambda v=number: guide(torch.ones(1), torch.ones(1), v)


def main() -> int:
    """Try everything; the number of cases that went wrong."""
    wrong: list[str] = []
    count = 0
    for group in (caches, primitives, schedules, configs):
        for name, call in group():
            count += 1
            try:
                call()
                wrong.append(f"{name}: accepted")
            except ValueError as error:
                if len(str(error)) < 40 or "\n" in str(error) or len(str(error)) > 900:
                    wrong.append(f"{name}: says {str(error)!r:.120}")
            except Exception as error:  # whatever a user would have met
                wrong.append(f"{name}: {type(error).__name__} {str(error)!r:.120}")
    for name, call in good():
        count += 1
        try:
            call()
        except Exception as error:  # whatever a user would have met
            wrong.append(f"{name}: refused, {type(error).__name__} {str(error)!r:.120}")
    print("\n".join([*wrong, f"{count} cases"]))
    return len(wrong)


if __name__ == "__main__":
    sys.exit(min(main(), 100))
