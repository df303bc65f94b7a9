"""The sizes of a part from the shapes of its weights, for files that have no config beside them."""

import re
from collections.abc import Mapping
from typing import Any

from longlive_models.checkpoints.nvfp4 import split_quantization
from longlive_models.text import UMT5Config
from longlive_models.vae import WAN22_VAE, VAEConfig
from longlive_models.wan import WAN_5B, WanConfig

Shapes = Mapping[str, tuple[int, ...]]

HEAD_DIM = WAN_5B.head_dim
"""The channels of an attention head in all models of Wan; heads leave no trace in the shapes."""


def transformer_config(
    shapes: Shapes, config: Mapping[str, Any] | None, source: object
) -> WanConfig:
    """The sizes of a transformer.

    Args:
        shapes: its shapes, by published names.
        config: Diffusers' config of it or this library's, which knows the heads; None if there
            is none.
        source: the file, for messages.

    Raises:
        ValueError: the shapes are of no transformer of Wan2.2.
    """
    if config is not None and "num_heads" in config:  # this library's
        return WanConfig.from_dict(split_quantization(config)[0])
    try:
        dim, channels, frames, rows, columns = shapes["patch_embedding.weight"]
        head_dim = int((config or {}).get("attention_head_dim", HEAD_DIM))
        if dim % head_dim:
            head_dim = dim
        return WanConfig(
            dim=dim,
            ffn_dim=shapes["blocks.0.ffn.0.bias"][0],
            num_heads=dim // head_dim,
            num_layers=_count(shapes, r"blocks\.(\d+)\."),
            in_channels=channels,
            out_channels=shapes["head.head.bias"][0] // (rows * columns),
            text_dim=shapes["text_embedding.0.weight"][1],
            text_len=WAN_5B.text_len,
            freq_dim=shapes["time_embedding.0.weight"][1],
            patch_size=(frames, rows, columns),
            eps=float((config or {}).get("eps", WAN_5B.eps)),
            cross_attn_norm="blocks.0.norm3.weight" in shapes,
            qk_norm="blocks.0.self_attn.norm_q.weight" in shapes,
        )
    except (KeyError, IndexError, ValueError, TypeError, ZeroDivisionError) as error:
        raise _unknown(source, "transformer", error) from error


def vae_config(shapes: Shapes, config: Mapping[str, Any] | None, source: object) -> VAEConfig:
    """The sizes of a VAE, and the statistics of its latents.

    Shapes do not tell the statistics: without a config they are those of Wan2.2's VAE.

    Raises:
        ValueError: the shapes are of no VAE of Wan2.2, or the statistics are not known.
    """
    if config is not None and "latent_mean" in config:  # this library's
        return VAEConfig.from_dict(config)
    try:
        folded = shapes["encoder.conv1.weight"][1]
        encoder_dim = shapes["encoder.conv1.weight"][0]
        channels = shapes["conv2.weight"][0]
        stages = _count(shapes, r"encoder\.downsamples\.(\d+)\.")
        widths = [
            shapes[f"encoder.downsamples.{stage}.downsamples.0.residual.6.weight"][0]
            for stage in range(stages)
        ]
        blocks = _count(shapes, r"encoder\.downsamples\.0\.downsamples\.(\d+)\.residual\.")
        halves_time = tuple(
            f"encoder.downsamples.{stage}.downsamples.{blocks}.time_conv.weight" in shapes
            for stage in range(stages - 1)
        )
        mean, std = WAN22_VAE.latent_mean, WAN22_VAE.latent_std
        if config is not None and "latents_mean" in config:
            mean, std = (tuple(map(float, config[f"latents_{name}"])) for name in ("mean", "std"))
        elif channels != len(mean):
            raise ValueError(
                f"it has {channels} latent channels, and the statistics of {len(mean)} are known"
            )
        return VAEConfig(
            encoder_dim=encoder_dim,
            decoder_dim=shapes["decoder.conv1.weight"][0] // (widths[-1] // encoder_dim),
            latent_channels=channels,
            dim_mult=tuple(width // encoder_dim for width in widths),
            num_res_blocks=blocks,
            temporal_downsample=halves_time,
            latent_mean=mean,
            latent_std=std,
            patch_size=round((folded / 3) ** 0.5),
        )
    except (KeyError, IndexError, ValueError, TypeError, ZeroDivisionError) as error:
        raise _unknown(source, "VAE", error) from error


def umt5_config(shapes: Shapes, source: object) -> UMT5Config:
    """The sizes of a UMT5 encoder. Raises ValueError if the shapes are of none."""
    try:
        vocabulary, dim = shapes["token_embedding.weight"]
        buckets, heads = shapes["blocks.0.pos_embedding.embedding.weight"]
        return UMT5Config(
            vocab_size=vocabulary,
            dim=dim,
            dim_attn=shapes["blocks.0.attn.q.weight"][0],
            dim_ffn=shapes["blocks.0.ffn.fc1.weight"][0],
            num_heads=heads,
            num_layers=_count(shapes, r"blocks\.(\d+)\."),
            num_buckets=buckets,
        )
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise _unknown(source, "UMT5 text encoder", error) from error


def _count(shapes: Shapes, pattern: str) -> int:
    """One more than the largest number that the pattern finds at the start of names."""
    return 1 + max(int(found[1]) for name in shapes if (found := re.match(pattern, name)))


def _unknown(source: object, what: str, error: Exception) -> ValueError:
    why = f"it lacks {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
    return ValueError(
        f"the sizes of the {what} cannot be told from the shapes in {source}: {why}. It is cut, or "
        f"of another model. Take the model's own file."
    )
