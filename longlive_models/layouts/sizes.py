"""The sizes of a part from the shapes of its weights, for files that have no config beside them."""

import re
from collections.abc import Mapping
from typing import Any

from longlive_models.checkpoints.nvfp4 import split_quantization
from longlive_models.layouts.depth import require_all, require_layers
from longlive_models.text import UMT5_XXL, UMT5Config
from longlive_models.vae import WAN22_VAE, VAEConfig
from longlive_models.wan import WAN_5B, WanConfig

Shapes = Mapping[str, tuple[int, ...]]

_STAGES = r"encoder\.downsamples\.(\d+)\."
_BLOCKS = r"encoder\.downsamples\.0\.downsamples\.(\d+)\.residual\."

HEAD_DIM = WAN_5B.head_dim
"""The channels of an attention head in all models of Wan; heads leave no trace in the shapes."""


def transformer_config(
    shapes: Shapes, config: Mapping[str, Any] | None, source: object
) -> WanConfig:
    """The sizes of a transformer.

    Args:
        shapes: its shapes, by published names.
        config: a config of it, Diffusers', Wan's or this library's, which knows the heads and the
            number of blocks; None if there is none.
        source: the file, for messages.

    Raises:
        ValueError: the shapes are of no transformer of Wan2.2, or blocks are not there.
    """
    if config is not None and {"num_heads", "in_channels"} <= config.keys():
        found = WanConfig.from_dict(split_quantization(config)[0])  # this library's
    else:
        found = _transformer_in(shapes, config or {}, source)
    held = _count(shapes, r"blocks\.(\d+)\.")
    require_layers("transformer", (found.dim, found.ffn_dim), held, config, source)
    return found


def _transformer_in(shapes: Shapes, config: Mapping[str, Any], source: object) -> WanConfig:
    try:
        dim, channels, frames, rows, columns = shapes["patch_embedding.weight"]
        head_dim = int(config.get("attention_head_dim", HEAD_DIM))
        if "num_heads" in config:  # Wan's own
            head_dim = dim // int(config["num_heads"])
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
            eps=float(config.get("eps", WAN_5B.eps)),
            cross_attn_norm="blocks.0.norm3.weight" in shapes,
            qk_norm="blocks.0.self_attn.norm_q.weight" in shapes,
        )
    except (KeyError, IndexError, ValueError, TypeError, ZeroDivisionError) as error:
        raise _unknown(source, "transformer", error) from error


def vae_config(shapes: Shapes, config: Mapping[str, Any] | None, source: object) -> VAEConfig:
    """The sizes of a VAE, and the statistics of its latents.

    Shapes do not tell the statistics: without a config they are those of Wan2.2's VAE.

    Raises:
        ValueError: the shapes are of no VAE of Wan2.2, the statistics are not known, or stages or
            blocks are not there.
    """
    own = config is not None and "latent_mean" in config
    _require_stages(shapes, config, source)
    return VAEConfig.from_dict(config or {}) if own else _vae_in(shapes, config, source)


def _require_stages(shapes: Shapes, config: Mapping[str, Any] | None, source: object) -> None:
    """Raise ValueError unless a VAE has the stages that its config, or Wan2.2's VAE, has."""
    first, last = shapes.get("encoder.conv1.weight", ()), shapes.get("conv2.weight", ())
    known = (*first[:1], *last[:1]) == (WAN22_VAE.encoder_dim, WAN22_VAE.latent_channels)
    said = config or (WAN22_VAE.to_dict() if known else {})
    for what, wanted, pattern in (
        ("stages of the encoder", said.get("dim_mult"), _STAGES),
        ("residual blocks in a stage of the encoder", said.get("num_res_blocks"), _BLOCKS),
    ):
        if isinstance(wanted, list | int):
            count = wanted if isinstance(wanted, int) else len(wanted)
            require_all(_count(shapes, pattern), count, what, source)


def _vae_in(shapes: Shapes, config: Mapping[str, Any] | None, source: object) -> VAEConfig:
    try:
        folded = shapes["encoder.conv1.weight"][1]
        encoder_dim = shapes["encoder.conv1.weight"][0]
        channels = shapes["conv2.weight"][0]
        stages = _count(shapes, _STAGES)
        widths = [
            shapes[f"encoder.downsamples.{stage}.downsamples.0.residual.6.weight"][0]
            for stage in range(stages)
        ]
        blocks = _count(shapes, _BLOCKS)
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


def umt5_config(shapes: Shapes, config: Mapping[str, Any] | None, source: object) -> UMT5Config:
    """The sizes of a UMT5 encoder; ``config`` is transformers' or this library's, if there is one.

    Raises:
        ValueError: the shapes are of no such encoder, or blocks are not there.
    """
    held = _count(shapes, r"blocks\.(\d+)\.")
    said = config or {}
    farthest = said.get("relative_attention_max_distance", said.get("max_distance"))
    try:
        vocabulary, dim = shapes["token_embedding.weight"]
        buckets, heads = shapes["blocks.0.pos_embedding.embedding.weight"]
        found = UMT5Config(
            vocab_size=vocabulary,
            dim=dim,
            dim_attn=shapes["blocks.0.attn.q.weight"][0],
            dim_ffn=shapes["blocks.0.ffn.fc1.weight"][0],
            num_heads=heads,
            num_layers=held,
            num_buckets=buckets,
            max_distance=UMT5_XXL.max_distance if farthest is None else farthest,
        )
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise _unknown(source, "UMT5 text encoder", error) from error
    require_layers("text_encoder", (dim, found.dim_ffn), held, config, source)
    return found


def _count(shapes: Shapes, pattern: str) -> int:
    """One more than the largest number that the pattern finds at the start of names, or 0."""
    numbers = (int(found[1]) for name in shapes if (found := re.match(pattern, name)))
    return 1 + max(numbers, default=-1)


def _unknown(source: object, what: str, error: Exception) -> ValueError:
    why = f"it lacks {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
    return ValueError(
        f"the sizes of the {what} cannot be told from the shapes in {source}: {why}. It is cut, or "
        f"of another model. Take the model's own file."
    )
