"""WanVAE, which encodes videos to latents and decodes them, whole or block by block."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from longlive_core.backends import Receipt, Request
from longlive_core.memory import require_room
from longlive_models.vae.config import VAEConfig
from longlive_models.vae.decoder import Decoder
from longlive_models.vae.decoding import (
    CPU_LATENTS,
    DECODERS,
    DecodeOptions,
    PieceDecoder,
    latents_at_once,
)
from longlive_models.vae.encoder import Encoder
from longlive_models.vae.layers import (
    CausalConv3d,
    PointwiseConv3d,
    TemporalConv3d,
    patchify,
    unpatchify,
)
from longlive_models.vae.streaming import Features, History, StreamState

Video = Float[Tensor, "batch 3 frames height width"]
Latents = Float[Tensor, "B C F Y X"]
LOGVAR_RANGE = (-30.0, 20.0)


class WanVAE(nn.Module):
    """The causal video VAE of Wan2.2, at any size a ``VAEConfig`` gives.

    Videos are in [-1, 1]. Their first frame is a latent frame of its own; every later latent frame
    holds ``temporal_stride`` frames. Frames never depend on later ones, so a video can be encoded
    and decoded in pieces (``encode_block``, ``decode_block``) with the same result. State-dict
    keys are those of the published ``Wan2.2_VAE.pth``.
    """

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widest = max(*config.encoder_dims, *config.decoder_dims)
        require_room(
            f"a VAE's convolutions of {widest} channels in float32",
            4 * 27 * widest**2,
            torch.get_default_device(),
            why="VAEConfig's sizes make them. Take the sizes from the model's files.",
        )
        self.config = config
        self.decoding = DecodeOptions()
        channels = config.latent_channels
        self.encoder = Encoder(config)
        self.conv1 = PointwiseConv3d(2 * channels, 2 * channels)
        self.conv2 = PointwiseConv3d(channels, channels)
        self.decoder = Decoder(config)
        self.register_buffer("latent_mean", torch.empty(0, dtype=torch.float32), persistent=False)
        self.register_buffer("latent_std", torch.empty(0, dtype=torch.float32), persistent=False)
        self.reset_statistics()

    def reset_statistics(self) -> None:
        """Set the buffers of latent statistics from the config, in float32."""
        device = self.conv2.weight.device
        shape = (1, self.config.latent_channels, 1, 1, 1)

        def statistic(values: tuple[float, ...]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device).view(shape)

        self.latent_mean = statistic(self.config.latent_mean)
        self.latent_std = statistic(self.config.latent_std)

    def channels_last_(self) -> None:
        """Store the weights of convolutions channels-last, in place; features then are so as well.

        This is faster on GPUs. (``Module.to(memory_format=...)`` handles either 2-D or 3-D
        convolutions, and this model has both.)
        """
        formats = {5: torch.channels_last_3d, 4: torch.channels_last}
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                weight = module.weight
                weight.data = weight.data.contiguous(memory_format=formats[weight.ndim])

    def decode_with_(self, options: DecodeOptions) -> None:
        """Set how latents are decoded from now on. See ``DecodeOptions``."""
        self.decoding = options

    def normalize(self, mean: Latents) -> Latents:
        """Normalize latents to zero mean and unit deviation, channel by channel."""
        return (mean - self.latent_mean.to(mean.dtype)) / self.latent_std.to(mean.dtype)

    def denormalize(self, latents: Latents) -> Latents:
        """The inverse of ``normalize``."""
        return latents * self.latent_std.to(latents.dtype) + self.latent_mean.to(latents.dtype)

    def moments(self, video: Video, *, parity: bool = False) -> tuple[Latents, Latents]:
        """Mean and log-variance of the latents, not normalized, of a video of 1 + 4 n frames.

        The log-variance is clamped to [-30, 20], so that its exponential is finite. Raises
        ValueError if frames are left over after the last full group; with ``parity=True`` they
        are dropped silently, as the original does.
        """
        self._check_video(video, parity=parity, first=True)
        video = video[:, :, : self.config.pixel_frames(self.config.latent_frames(video.shape[2]))]
        features, _ = self._encode(video, None, record=False)
        mean, logvar = self.conv1(features).chunk(2, dim=1)
        return _at_least_float(mean), _at_least_float(logvar).clamp(*LOGVAR_RANGE)

    def encode(self, video: Video, *, parity: bool = False) -> Latents:
        """Encode a video of 1 + 4 n frames to normalized latents (the mean; nothing is sampled)."""
        return self.normalize(self.moments(video, parity=parity)[0])

    def encode_block(
        self, video: Video, state: StreamState | None = None
    ) -> tuple[Latents, StreamState]:
        """Encode the next piece of a video: 1 + 4 n frames in the first call, then 4 n frames each.

        The first call has no state. Returns normalized latents and the state for the next call.
        """
        self._check_video(video, parity=False, first=state is None)
        size, channels = self.config.patch_size, self.config.patch_channels
        b, _, _, h, w = video.shape
        past = _past(state, self.encoder, (b, 2, h // size, w // size, channels))
        features, history = self._encode(video, past, record=True)
        mean = _at_least_float(self.conv1(features).chunk(2, dim=1)[0])
        return self.normalize(mean), StreamState(history)

    def decode(self, latents: Latents) -> Video:
        """Decode F latent frames, normalized, to a video of 1 + 4 (F - 1) frames, not clamped."""
        self._check_latents(latents)
        return self._decode(latents, None, record=False)[0]

    def decode_block(
        self, latents: Latents, state: StreamState | None = None, *, spend: bool = False
    ) -> tuple[Video, StreamState]:
        """Decode the next latents of a video; returns frames and the state for the next call.

        In the first call, which has no state, the first latent frame gives one frame; all others
        give 4. However the latents are split over calls, the frames are those of ``decode``.
        With ``spend`` the state given is of no use afterwards, and its memory is free meanwhile,
        or holds the next state, unless it is shared (``StreamState.share``).
        """
        self._check_latents(latents)
        b, c, _, h, w = latents.shape
        past: Sequence[Tensor] | None = _past(state, self.decoder, (b, 2, h, w, c))
        owned = False
        if spend and state is not None:
            owned, past = state.owned, state.spend()
        video, history = self._decode(latents, past, record=True, owned=owned)
        return video, StreamState(history, owned=True)

    def _encode(
        self, video: Video, past: tuple[Tensor, ...] | None, *, record: bool
    ) -> tuple[Features, tuple[Tensor, ...]]:
        x = patchify(video, self.config.patch_size)
        on_cpu = x.device.type == "cpu"
        at_once = CPU_LATENTS * self.config.temporal_stride if on_cpu else x.shape[2]
        return _run(self.encoder, x, past, record=record, at_once=at_once)

    def _decode(
        self,
        latents: Latents,
        past: Sequence[Tensor] | None,
        *,
        record: bool,
        owned: bool = False,
    ) -> tuple[Video, tuple[Tensor, ...]]:
        latents = self.denormalize(latents).contiguous(memory_format=torch.channels_last_3d)
        x = self.conv2(latents)
        positions = x[:, 0, 0].numel()
        at_once = self.decoding.latents or latents_at_once(
            self.config, positions, gpu=x.device.type != "cpu"
        )
        decode = PieceDecoder(self.decoder, self.config, self.decoding, x)
        x, history = _run(decode, x, past, record=record, at_once=at_once, owned=owned)
        return unpatchify(x, self.config.patch_size), history

    def _check_video(self, video: Video, *, parity: bool, first: bool) -> None:
        frames, height, width = video.shape[2:]
        stride, group = self.config.spatial_stride, self.config.temporal_stride
        if height % stride or width % stride:
            raise ValueError(
                f"the VAE needs frames whose height and width are divisible by {stride}, got "
                f"{height} x {width}: a latent position is {stride} x {stride} pixels. "
                f"Crop or resize to {max(height // stride, 1) * stride} x "
                f"{max(width // stride, 1) * stride}."
            )
        rest = (frames - 1) % group if first else frames % group
        if (rest and not parity) or frames == 0:
            rule = f"1 + {group} n" if first else f"{group} n"
            near = frames - rest
            raise ValueError(
                f"the VAE encodes {rule} frames {'at the start' if first else 'later on'} of a "
                f"video, got {frames}: the first latent frame holds one frame, every later one "
                f"{group}. Pass {near if near > 0 else near + group} frames."
            )

    def _check_latents(self, latents: Latents) -> None:
        if latents.shape[1] != self.config.latent_channels:
            raise ValueError(
                f"this VAE decodes {self.config.latent_channels} latent channels, got "
                f"{latents.shape[1]} in a tensor of shape {tuple(latents.shape)}. "
                f"Pass latents of its own encoder, as [batch, channels, frames, height, width]."
            )
        if latents.shape[2] == 0:
            raise ValueError(
                f"the VAE decodes at least one latent frame, got a tensor of shape "
                f"{tuple(latents.shape)}: no frames have no video. Pass one frame or more."
            )


def decoder_receipt(vae: WanVAE) -> Receipt:
    """Which backend decodes where no gradient is needed, and why no faster one does.

    Raises:
        BackendUnavailable: the backend that was named cannot run.
    """
    weight = vae.conv2.weight
    request = Request(device=weight.device, dtype=weight.dtype)
    return DECODERS.receipt(request, vae.decoding.backend)


def _run(
    network: Callable[[Features, History], Features],
    x: Features,
    past: Sequence[Tensor] | None,
    *,
    record: bool,
    at_once: int,
    owned: bool = False,
) -> tuple[Features, tuple[Tensor, ...]]:
    """Run the network over a video's first frame by itself, then over ``at_once`` at a time.

    With gradients all others are run together. ``past`` is emptied if it is a list, and may be
    written over if it is ``owned``.
    """
    pieces = []
    if past is None:
        pieces, x = [x[:, :, :1]], x[:, :, 1:]
    if x.shape[2]:
        pieces += [x] if torch.is_grad_enabled() else x.split(at_once, 2)
    outputs = []
    for number, piece in enumerate(pieces, start=1):
        history = History(past, record=record or number < len(pieces), owned=owned)
        if isinstance(past, list):  # the callers of this function hold it, too
            past.clear()
        past = ()  # the history has it, and lets go of it
        outputs.append(network(piece, history))
        past, owned = tuple(history.new), True  # of this call alone
    assert past is not None
    return torch.cat(outputs, 2) if len(outputs) > 1 else outputs[0], tuple(past)


def _past(
    state: StreamState | None, network: nn.Module, first: tuple[int, ...]
) -> tuple[Tensor, ...] | None:
    """The history in a state. Raises ValueError if the state is that of another stream.

    ``first`` is the expected shape of the history of the network's first layer.
    """
    if state is None:
        return None
    layers = sum(isinstance(m, CausalConv3d | TemporalConv3d) for m in network.modules())
    found = tuple(state.history[0].shape) if state.history else None
    if len(state.history) != layers or found != first:
        raise ValueError(
            f"this state does not belong to this stream: {len(state.history)} layers, the first "
            f"with {found}, expected {layers} and {first} as [batch, frames, height, width, "
            f"channels]. Pass the state that the call before returned, for the same videos."
        )
    return state.history


def _at_least_float(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
