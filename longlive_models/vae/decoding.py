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
        tiles = list(tiles_of(x.shape[axis], self._tiles, halo_of(self._config)))
        strips, parts = _Strips(history, axis), []
        for tile, following in zip(tiles, [*tiles[1:], None], strict=True):
            seen = x.narrow(axis, tile.seen.start, len(tile.seen)).contiguous()
            own = _TileHistory(strips, tile, following)
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


class _Strips:
    """The history of the layers that run on tiles, of whole frames.

    A new past is written over the old one where nobody else has it. Then the positions that the
    next tile sees of the old one are put aside first: a seam, a few positions wide.

    Attributes:
        past: the old past of each layer; the last tile lets go of it.
        new: the new one of all layers of the decoder.
        before: of these, how many run on whole frames.
        axis: along which frames are cut.
    """

    def __init__(self, whole: History, axis: int) -> None:
        self.whole, self.axis = whole, axis
        self.past, self.new, self.before = whole.rest(), whole.new, len(whole.new)
        self._over = whole.owned and whole.record
        self._seams: dict[int, Tensor] = {}

    def seen(self, layer: int, tile: Tile, following: Tile | None) -> Rows:
        """The old past of a layer that a tile sees."""
        whole = self.past[layer]
        if layer in self._seams:
            rest = Part(range(tile.kept.start, tile.seen.stop), tile.length)
            own = _part(whole, self.axis, rest)
            seen = torch.cat([self._seams.pop(layer), own], self.axis)
        else:
            seen = _part(whole, self.axis, tile.seen_in_whole)
        if following is None:
            self.past[layer] = whole.new_empty(0)
        elif self._over:
            low, first = following.seen.start, tile.seen.start
            seam = Part(range(low - first, tile.kept.stop - first), len(tile.seen))
            self._seams[layer] = _part(seen, self.axis, seam).clone()
        return seen

    def place(self, layer: int, like: Rows, length: int) -> Rows:
        """The new past of a layer, whose sides along the axis have ``length`` positions."""
        number = self.before + layer
        if number == len(self.new):
            shape = list(like.shape)
            shape[self.axis] = length
            old = self.past[layer] if self._over and layer < len(self.past) else like
            fits = list(old.shape) == shape and old.dtype == like.dtype and old.is_contiguous()
            self.new.append(old if fits and old is not like else like.new_empty(shape))
        return self.new[number]


class _TileHistory(History):
    """The history of a tile: it takes its part of each layer's past, and puts its own in place.

    So the state of a stream does not depend on tiles.
    """

    def __init__(self, strips: _Strips, tile: Tile, following: Tile | None) -> None:
        super().__init__(None if strips.whole.first else (), record=strips.whole.record)
        self.new = strips.new
        self._strips, self._tile, self._following = strips, tile, following
        self._taken = self._kept = 0

    def take(self) -> Rows:
        """The part of the layer's past that the tile sees."""
        self._taken += 1
        return self._strips.seen(self._taken - 1, self._tile, self._following)

    def keep(self, frames: Rows) -> None:
        """Put the layer's new past, as far as it is right, into that of the whole frame."""
        if not self.record:
            return
        axis, tile = self._strips.axis, self._tile
        kept = _part(frames, axis, tile.kept_in_seen)
        length = kept.shape[axis] * tile.length // len(tile.kept)
        whole = self._strips.place(self._kept, frames, length)
        _part(whole, axis, tile.kept_in_whole).copy_(kept)
        self._kept += 1


def _part(x: Rows, axis: int, part: Part) -> Rows:
    """A part of an axis, whatever multiple of positions it has: a view."""
    scale = x.shape[axis] // part.length
    return x.narrow(axis, part.places.start * scale, len(part.places) * scale)
