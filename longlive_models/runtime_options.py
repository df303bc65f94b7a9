"""What is asked of the machine that a model runs on; no torch."""

from dataclasses import dataclass, fields

from longlive_models.choices import KV_CACHES, WEIGHTS, check_choice


@dataclass(frozen=True, kw_only=True)
class RuntimeOptions:
    """Where and how precisely a model is to compute; "auto" leaves it to the machine.

    Configs and commands that run a model have these fields, and ``longlive_models.runtime.Runtime``
    is what is decided from them, once.

    Attributes:
        device: "auto", "cpu", "cuda", "cuda:1", ...: a GPU if there is one.
        weights: a name of ``choices.WEIGHTS``, or "auto": bf16 on a GPU, fp32 on a CPU.
        kv_cache: a name of ``choices.KV_CACHES``, or "auto", as for weights: how past keys and
            values are kept.
        attention: a backend of ``longlive_core.attention.ATTENTION``, or "auto": the fastest.
        lane: where frames are decoded (``longlive_core.async_decode``), or "auto": a stream of
            its own on a GPU, in turn with denoising on a CPU.
        linear: a backend of the products of quantized linears, or "auto": the fastest.
        strict: refuse to emulate a number format that the hardware has not.

    Raises ValueError for a precision that does not exist.
    """

    device: str = "auto"
    weights: str = "auto"
    kv_cache: str = "auto"
    attention: str = "auto"
    lane: str = "auto"
    linear: str = "auto"
    strict: bool = False

    def __post_init__(self) -> None:
        check_choice("weights", self.weights, WEIGHTS)
        check_choice("kv_cache", self.kv_cache, KV_CACHES)


RUNTIME_OPTIONS = tuple(field.name for field in fields(RuntimeOptions))
"""The names of the options, in their order."""
