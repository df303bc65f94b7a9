"""The names of precisions, caches and samplers that can be chosen, and bounds of numbers.

Needs no torch, so that commands can check names before torch is imported.
"""

from longlive_core.checks import QUALITIES as QUALITIES
from longlive_core.checks import real, shown, whole

WEIGHTS = ("fp32", "bf16", "fp8", "nvfp4", "nvfp4-w4a4")
"""How precise the weights of a transformer are; ``longlive_models.runtime`` says what each is."""

KV_CACHES = ("fp32", "bf16", "fp8", "int8", "nvfp4")
"""How past keys and values are kept."""

VAES = ("full", "light")
"""What decodes a model's latents: its own decoder, or a narrower one beside it."""

TEXT_ENCODERS = ("device", "offload", "cpu")
"""Where a text encoder is: ``longlive_models.placing`` says what each is."""

MOST_VAE_LATENTS, MOST_VAE_TILES = 4096, 64
"""The most latents that a VAE decodes at a time, and the most tiles of a frame."""

MOST_GUIDANCE = 1000.0
"""The largest guidance. A velocity times a thousand leaves nothing of a picture, whose values lie
between -1 and 1."""

_GUIDANCE_WHY = (
    "it scales the distance from the negative prompt, and 1 is the model as trained, without one. "
    "Leave it out for the model's own: 1 for a student of few steps, 2 to 7 for others."
)
"""Ends messages about a guidance that cannot be."""

MOST_STEPS = 1000
"""The most denoising steps of a block: each has its own noise level, and models know a thousand."""

SAMPLERS = ("unipc", "euler", "few_step")
"""How noise becomes latents; ``longlive_models.diffusion.samplers`` says what each does."""


def check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raise ValueError unless ``value`` is "auto" or one of ``known``."""
    if value != "auto" and value not in known:
        raise ValueError(
            f"{name}={value!r} is no precision of this version: it has {', '.join(known)}. "
            f"Use one of them, or 'auto'."
        )


def check_quality(value: str) -> None:
    """Raise ValueError unless ``value`` is the name of a quality."""
    if value not in QUALITIES:
        raise ValueError(
            f"quality={shown(value)} is no quality of this version: it has "
            f"{' and '.join(QUALITIES)}. 'lossless' gives the plain path's frames, 'high' rounds "
            f"products and attention to eight bits where the hardware has them. Use one of them."
        )


def check_vae(value: str) -> None:
    """Raise ValueError unless ``value`` is the name of a decoder."""
    if value not in VAES:
        raise ValueError(
            f"vae={shown(value)} is no decoder of a model: it has {' and '.join(VAES)}, the light "
            f"one where vae_light/ is in its folder. Use one of them."
        )


def check_text_encoder(value: str) -> None:
    """Raise ValueError unless ``value`` is "auto" or a place of a text encoder."""
    if value != "auto" and value not in TEXT_ENCODERS:
        raise ValueError(
            f"text_encoder={shown(value)} is no place for a text encoder: there is 'device', where "
            f"the transformer is, 'offload', from where its layers visit that device, and 'cpu'. "
            f"Use one of them, or 'auto'."
        )


def check_vae_pieces(latents: int, tiles: int) -> None:
    """Raise ValueError unless a VAE can decode so many latents at a time, on so many tiles."""
    whole(
        "vae_latents",
        latents,
        at_least=0,
        at_most=MOST_VAE_LATENTS,
        why="it is how many latent frames the VAE decodes at a time. Use 0 to let their size "
        "decide, or 1 for the least memory.",
    )
    whole(
        "vae_tiles",
        tiles,
        at_least=1,
        at_most=MOST_VAE_TILES,
        why="it is into how many strips the VAE cuts a frame. Use 1 for whole frames.",
    )


def check_guidance(value: float) -> float:
    """Return a guidance as a float, or raise ValueError for one that no model is run with."""
    return real("guidance", value, at_least=0, at_most=MOST_GUIDANCE, why=_GUIDANCE_WHY)


def check_sampler(value: str) -> None:
    """Raise ValueError unless ``value`` is the name of a sampler."""
    if value not in SAMPLERS:
        raise ValueError(
            f"sampler={shown(value)} is no sampler of this version: it has {', '.join(SAMPLERS)}. "
            f"Use one of them."
        )
