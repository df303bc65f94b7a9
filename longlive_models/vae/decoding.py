"""How latents are decoded: how many at a time, on how many tiles, by which backend."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from longlive_core.backends import (
    Backend,
    Operation,
    Request,
    all_of,
    forward_only,
    needs_dtype,
    needs_triton,
)
from longlive_core.checks import shown
from longlive_models.choices import check_vae_pieces
from longlive_models.vae.config import VAEConfig
from longlive_models.vae.decoder import Decoder
from longlive_models.vae.fused_decoder import FusedDecoder
from longlive_models.vae.fused_passes import JOIN_PHASES, NORM_SILU_PAD, WIDEST
from longlive_models.vae.streaming import Features, History, Rows, features, rows
from longlive_models.vae.tiles import Part, Tile, check_tiles, halo_of, tiles_of

CPU_LATENTS = 4
"""How many latents a CPU decodes at a time: features that fit into its cache are much faster to
read, and four frames at once take half the products (``four_frames``)."""

GPU_NUMBERS = 1 << 30
"""How many numbers the widest features on a GPU have, unless one latent has more: beyond, more
latents at a time take more memory and no less time."""


@runtime_checkable
class Network(Protocol):
    """A decoder in two parts; the second sees a few positions around each alone."""

    def base(self, x: Features, history: History) -> Features:
        """The part whose attention sees whole frames."""

    def top(self, x: Features, history: History) -> Features:
        """The part that can run on tiles."""


def _fused(decoder: Decoder, passes: str) -> FusedDecoder:
    return FusedDecoder(decoder, NORM_SILU_PAD.named(passes).run, JOIN_PHASES.named(passes).run)


def _to_compare_with(request: Request) -> str:
    return "it is slow: it is there to be compared with"


DECODERS = Operation(
    "vae.decoder",
    (
        Backend(
            name="triton",
            run=lambda decoder: _fused(decoder, "triton"),
            why_not=all_of(
                forward_only,
                needs_triton,
                needs_dtype(torch.float32, torch.bfloat16, torch.float16),
            ),
        ),
        Backend(name="modules", run=lambda decoder: decoder),
        Backend(
            name="reference",
            run=lambda decoder: _fused(decoder, "reference"),
            why_not=forward_only,
            why_not_auto=_to_compare_with,
        ),
    ),
)
"""What runs a decoder: one pass between two convolutions, in Triton; the layers as they are
trained; the operations of these passes one by one, which give the first one's bits."""


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """How a VAE decodes; the frames are the same but for rounding.

    In bfloat16 a GPU's convolutions of other sizes round in other ways, so other ``latents`` or
    ``tiles`` may change some bytes of a frame by 1 or 2; at equal ones they are the same.

    Attributes:
        latents: how many latent frames go through the decoder at a time; 0 decides by their size
            on a GPU and takes ``CPU_LATENTS`` on a CPU. With gradients all go at once.
        tiles: into how many strips the decoder's last stages cut a frame, which they compute one
            after another: less memory, and positions around the seams are computed twice.
        backend: a name of ``DECODERS``, or "auto": the fastest.

    Raises ValueError for numbers out of range and for a backend of another name.
    """

    latents: int = 0
    tiles: int = 1
    backend: str = "auto"

    def __post_init__(self) -> None:
        check_vae_pieces(self.latents, self.tiles)
        names = ("auto", *(backend.name for backend in DECODERS.backends))
        if self.backend not in names:
            raise ValueError(
                f"DecodeOptions.backend={shown(self.backend)} runs no decoder: there are "
                f"{', '.join(names)}. Use one of them."
            )


def latents_at_once(config: VAEConfig, positions: int, *, gpu: bool) -> int:
    """How many latent frames are decoded at a time by default, without gradients.

    ``positions`` counts those of a latent frame, over all samples.
    """
    if not gpu:
        return CPU_LATENTS
    pixels = (config.spatial_stride // config.patch_size) ** 2
    widest = max(config.decoder_dims[-2:]) * config.temporal_stride * pixels
    return max(1, GPU_NUMBERS // (widest * positions))


class PieceDecoder:
    """Decodes a video's first latent frame, or any number of later ones.

    Args:
        decoder: the decoder and its weights.
        config: its sizes.
        options: how to decode.
        x: features of the device and type to come.

    Raises:
        ValueError: there are more tiles than positions.
        BackendUnavailable: the backend that was named cannot run, or has no gradient.
    """

    def __init__(
        self, decoder: Decoder, config: VAEConfig, options: DecodeOptions, x: Features
    ) -> None:
        self._config = config
        self._decoder = decoder
        self._tiles = 1 if torch.is_grad_enabled() else options.tiles
        if self._tiles > 1:
            check_tiles(config, (x.shape[3], x.shape[4]), self._tiles)
        self._network = _network(decoder, config, options.backend, x)

    def __call__(self, x: Features, history: History) -> Features:
        """Patchified frames of a piece."""
        network = self._decoder if history.first else self._network
        x = network.base(x, history)
        return network.top(x, history) if self._tiles == 1 else self._on_tiles(network, x, history)

    def _on_tiles(self, network: Network, x: Features, history: History) -> Features:
        axis = 2 if x.shape[3] > x.shape[4] else 3  # of rows: height or width
        x = rows(x)
        past, before, parts = history.rest(), len(history.new), []
        for tile in tiles_of(x.shape[axis], self._tiles, halo_of(self._config)):
            seen = x.narrow(axis, tile.seen.start, len(tile.seen)).contiguous()
            own = _TileHistory(history, past, before, tile, axis)
            parts.append(_part(rows(network.top(features(seen), own)), axis, tile.kept_in_seen))
        return features(torch.cat(parts, axis))


def _network(decoder: Decoder, config: VAEConfig, backend: str, x: Features) -> Network:
    """What the table has for such features; modules where nothing else is sure to be right."""
    kind, gradients = x.device.type, torch.is_grad_enabled()
    if backend == "auto" and (
        gradients
        or kind != "cuda"
        or torch.compiler.is_compiling()
        or torch.is_autocast_enabled(kind)
        or max(config.decoder_dims) > WIDEST
    ):
        return decoder
    request = Request(device=x.device, dtype=x.dtype, needs_grad=gradients)
    network: Network = DECODERS.select(request, backend)(decoder)
    return network


class _TileHistory(History):
    """The history of a tile: it takes its part of each layer's past, and puts its own in place.

    So the state of a stream does not depend on tiles. ``past`` has that of all layers that run on
    tiles, and the last tile lets go of it; ``before`` layers have recorded theirs already.
    """

    def __init__(
        self, whole: History, past: list[Tensor], before: int, tile: Tile, axis: int
    ) -> None:
        super().__init__(None if whole.first else (), record=whole.record)
        self.new = whole.new
        self._whole_past, self._tile, self._axis = past, tile, axis
        self._taken, self._kept = 0, before

    def take(self) -> Rows:
        """The part of the layer's past that the tile sees."""
        whole = self._whole_past[self._taken]
        if self._tile.kept.stop == self._tile.length:
            self._whole_past[self._taken] = whole.new_empty(0)
        self._taken += 1
        return _part(whole, self._axis, self._tile.seen_in_whole)

    def keep(self, frames: Rows) -> None:
        """Put the layer's new past, as far as it is right, into that of the whole frame."""
        if not self.record:
            return
        kept = _part(frames, self._axis, self._tile.kept_in_seen)
        if self._kept == len(self.new):
            shape = list(frames.shape)
            shape[self._axis] = kept.shape[self._axis] * self._tile.length // len(self._tile.kept)
            self.new.append(frames.new_empty(shape))
        _part(self.new[self._kept], self._axis, self._tile.kept_in_whole).copy_(kept)
        self._kept += 1


def _part(x: Rows, axis: int, part: Part) -> Rows:
    """A part of an axis, whatever multiple of positions it has: a view."""
    scale = x.shape[axis] // part.length
    return x.narrow(axis, part.places.start * scale, len(part.places) * scale)
