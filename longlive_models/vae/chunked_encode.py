"""Encoding a part of a video by itself, from its frames and a halo of frames before them.

Source: LongLive-2.0 (arXiv 2605.18739), chunk-halo encoding for sequence parallelism.
"""

from longlive_core.sequence_parallel import HaloWindow, halo_window
from longlive_models.vae.autoencoder import Latents, Video, WanVAE
from longlive_models.vae.config import VAEConfig


def encode_window(config: VAEConfig, keep: range, *, halo: int | None = None) -> HaloWindow:
    """The frames to encode for the latent frames ``keep`` of a video, and which latents to drop.

    ``halo`` counts latent frames; ``config.encoder_history`` of them, the default, give what
    encoding the whole video gives, exactly. Fewer are an approximation: the first latent frames
    that are kept then miss a part of their past.
    """
    halo = config.encoder_history if halo is None else halo
    return halo_window(keep, halo=halo, stride=config.temporal_stride)


def encode_chunk(vae: WanVAE, frames: Video, window: HaloWindow) -> Latents:
    """Encode ``frames``, the frames ``window.pixels`` of a video, to its latents ``window.keep``.

    Raises:
        ValueError: there are not as many frames as the window has.
    """
    if frames.shape[2] != len(window.pixels):
        raise ValueError(
            f"the window is frames {window.pixels.start} to {window.pixels.stop - 1} of the video, "
            f"{len(window.pixels)} of them, got {frames.shape[2]}. Pass "
            f"video[:, :, {window.pixels.start}:{window.pixels.stop}]."
        )
    return vae.encode(frames)[:, :, window.drop :]


def encode_part(vae: WanVAE, video: Video, keep: range, *, halo: int | None = None) -> Latents:
    """Encode the latent frames ``keep`` of a whole video, from as few of its frames as possible."""
    whole = vae.config.latent_frames(video.shape[2])
    if keep.stop > whole:
        raise ValueError(
            f"latent frames {keep.start} to {keep.stop - 1} are asked for, but a video of "
            f"{video.shape[2]} frames has {whole}. Pass a longer video."
        )
    window = encode_window(vae.config, keep, halo=halo)
    return encode_chunk(vae, video[:, :, window.pixels.start : window.pixels.stop], window)
