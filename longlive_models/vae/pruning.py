"""A narrower decoder made of a full one: the channels with the largest weights are kept.

Channels that an identity or a parameterless shortcut joins are one group and are kept together;
the channels between two convolutions are a group of their own. A group's channels are scored by
the squares of all weights that write them or read them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from longlive_models.vae.autoencoder import WanVAE
from longlive_models.vae.config import VAEConfig

STREAM, LAST = "stream", "last"
"""The groups of features between blocks: up to the last stage, and after it."""


@dataclass(frozen=True)
class _Channels:
    """Channels along a dimension of a weight: ``run`` neighbors for each member of the group."""

    group: str
    run: int = 1


_Dims = tuple[tuple[_Channels, ...], ...]
"""For each dimension of a weight from the first on, the channels that follow each other there; ()
for a dimension that is kept whole."""


def narrower(config: VAEConfig, decoder_dim: int) -> VAEConfig:
    """The config with a decoder of ``decoder_dim``.

    Raises:
        ValueError: it is not narrower.
    """
    if not 1 <= decoder_dim < config.decoder_dim:
        raise ValueError(
            f"a light decoder is narrower than the full one, whose decoder_dim is "
            f"{config.decoder_dim}, got {decoder_dim}: half of it has a quarter of the products. "
            f"Use {max(1, config.decoder_dim // 2)}."
        )
    values = config.to_dict() | {"decoder_dim": decoder_dim}
    return VAEConfig.from_dict(values)


@torch.no_grad()
def prune_decoder(full: WanVAE, decoder_dim: int) -> dict[str, Tensor]:
    """The weights of ``conv2`` and of a decoder of ``decoder_dim``, cut out of the full ones.

    Returns:
        Tensors under the names that they have in ``WanVAE``, on the device of the full ones.

    Raises:
        ValueError: it is not narrower than the full one.
    """
    config = narrower(full.config, decoder_dim)
    plan = dict(_plan(full.config))
    state = {n: x for n, x in full.state_dict().items() if n.startswith(("conv2.", "decoder."))}
    kept = _kept(plan, state, share=config.decoder_dim / full.config.decoder_dim)
    made = {}
    for name, tensor in state.items():
        for dim, parts in enumerate(plan.get(name, ())):
            if parts:
                tensor = tensor.index_select(dim, _places(parts, tensor.shape[dim], kept))
        made[name] = tensor.clone()
    # attention divides by the root of its width: what is kept stays as it was
    queries = int(made["decoder.middle.1.proj.weight"].shape[1])
    share = (queries / full.config.decoder_dims[0]) ** 0.5
    for part in ("weight", "bias"):
        made[f"decoder.middle.1.to_qkv.{part}"][:queries] *= share
    return made


def _kept(
    plan: Mapping[str, _Dims], state: Mapping[str, Tensor], *, share: float
) -> dict[str, Tensor]:
    """For each group the members that are kept, ascending."""
    scores: dict[str, Tensor] = {}
    for name, dims in plan.items():
        squares = state[name].float().square()
        for dim, parts in enumerate(dims):
            sums = squares.movedim(dim, 0).flatten(1).sum(1) if squares.ndim > 1 else squares
            for one, values in zip(parts, sums.view(len(parts) or 1, -1), strict=False):
                members = values.view(-1, one.run).sum(1)
                scores[one.group] = scores.get(one.group, 0) + members
    kept = {}
    for group, values in scores.items():
        count = round(len(values) * share)
        kept[group] = values.topk(count).indices.sort().values
    return kept


def _places(parts: tuple[_Channels, ...], size: int, kept: Mapping[str, Tensor]) -> Tensor:
    """The indices of a dimension that are kept."""
    each, found = size // len(parts), []
    for number, one in enumerate(parts):
        first = kept[one.group] * one.run + number * each
        run = torch.arange(one.run, dtype=first.dtype, device=first.device)
        found.append((first[:, None] + run).flatten())
    return torch.cat(found)


def _plan(config: VAEConfig) -> Iterator[tuple[str, _Dims]]:
    """The channels of every weight of the decoder that has some to cut, by its name."""
    dims = config.decoder_dims
    unit = min(dims[:-1])
    tied = dims[-1] == dims[-2]  # the last stage then begins with an identity
    between = [(_Channels(STREAM, width // unit),) for width in dims[:-1]]
    between.append(between[-1] if tied else (_Channels(LAST),))
    start = between[0]
    yield from _convolution("decoder.conv1", start, ())
    for place in (0, 2):
        yield from _block(f"decoder.middle.{place}", start, start)
    looks, brings = (_Channels("looks"),), (_Channels("brings"),)
    yield "decoder.middle.1.norm.gamma", (start,)
    yield from _convolution("decoder.middle.1.to_qkv", (*looks, *looks, *brings), start)
    yield from _convolution("decoder.middle.1.proj", start, brings)
    stages, times = len(config.dim_mult), list(reversed(config.temporal_downsample))
    for stage in range(stages):
        name = f"decoder.upsamples.{stage}.upsamples"
        before, after = between[stage], between[stage + 1]
        for block in range(config.num_res_blocks + 1):
            yield from _block(f"{name}.{block}", after if block else before, after)
        if stage < stages - 1:
            name = f"{name}.{config.num_res_blocks + 1}"
            if times[stage]:  # a video's first frame goes past it, so it writes what it reads
                yield from _convolution(f"{name}.time_conv", after * 2, after)
            yield from _convolution(f"{name}.resample.1", after, after)
    yield "decoder.head.0.gamma", (between[-1],)
    yield "decoder.head.2.weight", ((), between[-1])


def _convolution(
    name: str, writes: tuple[_Channels, ...], reads: tuple[_Channels, ...]
) -> Iterator[tuple[str, _Dims]]:
    yield f"{name}.weight", (writes, reads)
    yield f"{name}.bias", (writes,)


def _block(
    name: str, before: tuple[_Channels, ...], after: tuple[_Channels, ...]
) -> Iterator[tuple[str, _Dims]]:
    """The weights of a residual block."""
    inner = (_Channels(f"inside {name}"),)
    yield f"{name}.residual.0.gamma", (before,)
    yield from _convolution(f"{name}.residual.2", inner, before)
    yield f"{name}.residual.3.gamma", (inner,)
    yield from _convolution(f"{name}.residual.6", after, inner)
    if before != after:
        yield from _convolution(f"{name}.shortcut", after, before)
