"""RuntimeOptions: the device, precision and backends that a caller asks for. Needs no torch."""

from dataclasses import dataclass, fields

from longlive_core.checks import switch
from longlive_models.choices import (
    KV_CACHES,
    WEIGHTS,
    check_choice,
    check_quality,
    check_text_encoder,
    check_vae,
    check_vae_pieces,
)
from longlive_models.lora_source import lora_texts


@dataclass(frozen=True, kw_only=True)
class RuntimeOptions:
    """The device, precision and backends to run a model with; "auto" decides by the machine.

    All configs and commands that run a model have these fields. ``longlive_models.runtime.Runtime``
    is made from them, and has no "auto" where a decision was possible.

    Attributes:
        device: "cpu", "cuda", "cuda:1", ..., or "auto": a GPU if there is one.
        quality: "lossless", whose fast paths give the plain path's frames, or "high", which rounds
            products and attention to eight bits where the hardware has them.
        weights: a name of ``choices.WEIGHTS``, or "auto": bf16 on a GPU (fp8 for the quality
            "high", if it multiplies in FP8), fp32 on a CPU.
        kv_cache: the form in which past keys and values are kept: a name of
            ``choices.KV_CACHES``, or "auto", which decides as for weights.
        attention: a backend of ``longlive_core.attention.ATTENTION``, or "auto": the fastest.
        lane: where frames are decoded (``longlive_core.async_decode``), or "auto": on a CUDA
            stream of its own on a GPU, in turn with denoising on a CPU.
        linear: a backend for the products of quantized linears, or "auto": the fastest.
        strict: raise an error rather than emulate a number format that the hardware lacks.
        lora: adapters of the transformer, each as FILE or FILE:WEIGHT; kept as FILE:WEIGHT. Merged
            into plain weights, beside packed ones.
        vae: "full", the model's own decoder, or "light", a narrower one in its folder
            ``vae_light``: almost the same frames in less time.
        offload: whether the transformer's blocks wait in the host's memory and visit the device
            one after another: the same frames, with two blocks of weights on the device.
        text_encoder: where the text encoder is, a name of ``choices.TEXT_ENCODERS``, or "auto":
            on the device where it takes little of its memory, else "offload".

        Raises ValueError for a quality, a precision, a decoder or a place that does not exist.
    """

    device: str = "auto"
    quality: str = "lossless"
    weights: str = "auto"
    kv_cache: str = "auto"
    attention: str = "auto"
    lane: str = "auto"
    linear: str = "auto"
    strict: bool = False
    vae: str = "full"
    vae_latents: int = 0
    vae_tiles: int = 1
    lora: tuple[str, ...] = ()
    offload: bool = False
    text_encoder: str = "auto"

    def __post_init__(self) -> None:
        check_quality(self.quality)
        check_choice("weights", self.weights, WEIGHTS)
        check_choice("kv_cache", self.kv_cache, KV_CACHES)
        check_vae(self.vae)
        check_vae_pieces(self.vae_latents, self.vae_tiles)
        switch("offload", self.offload, why="True lets blocks wait in the host's memory.")
        check_text_encoder(self.text_encoder)
        object.__setattr__(self, "lora", lora_texts(self.lora))


RUNTIME_OPTIONS = tuple(field.name for field in fields(RuntimeOptions))
"""The names of the options, in the order of the fields."""
