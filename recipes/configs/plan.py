"""The config of `longlive plan`: a model, a device and wishes. Needs no torch."""

import math
from dataclasses import dataclass

from longlive_core.checks import real, shown, whole
from longlive_models.choices import (
    KV_CACHES,
    MOST_STEPS,
    WEIGHTS,
    check_choice,
    check_guidance,
    check_quality,
    check_text_encoder,
    check_vae,
    check_vae_pieces,
)
from longlive_recipes.planning.hardware import named, size_in_bytes, with_memory

LANES = ("auto", "inline", "thread", "stream")
"""Where frames are decoded on the device that denoises."""


@dataclass(frozen=True, kw_only=True)
class PlanWishes:
    """What is to be made, of what, and on what.

    Attributes:
        model: a shipped model, a folder, or LongLive-2.0-5B, whose files need not be there.
        gpu: the name of a device; None for this machine's.
        memory: its memory in place of its own, such as "24GB".
        seconds: the length of the video.
        size: width and height of a frame, as "1280x704"; None for the model's own.
        weights, kv_cache: precisions; "auto" as the model would run there.
        steps: denoising steps of a block; None for the model's own.
        guidance: None for the model's own.
        quality, vae, vae_latents, vae_tiles, offload, text_encoder: as
            ``longlive_models.runtime_options`` has them.
        max_memory: at most so much of the memory, such as "24GB": what is left to "auto" is picked.
        ranks: GPUs that make the video together.
        lane: where frames are decoded, as ``longlive_models.runtime_options`` has it.
        decode_apart: whether one more GPU decodes, as a lane "device:..." says too.
        videos: how many videos are open at a time.

    Raises ValueError for a value that cannot be.
    """

    model: str = "LongLive-2.0-5B"
    gpu: str | None = None
    memory: str | None = None
    seconds: float = 60.0
    size: str | None = None
    weights: str = "auto"
    kv_cache: str = "auto"
    steps: int | None = None
    guidance: float | None = None
    quality: str = "lossless"
    vae: str = "full"
    vae_latents: int = 0
    vae_tiles: int = 1
    offload: bool = False
    text_encoder: str = "auto"
    max_memory: str | None = None
    ranks: int = 1
    lane: str = "auto"
    decode_apart: bool = False
    videos: int = 1

    def __post_init__(self) -> None:
        known = named("cpu" if self.gpu is None else self.gpu)
        with_memory(known, self.memory)
        check_choice("weights", self.weights, WEIGHTS)
        check_choice("kv_cache", self.kv_cache, KV_CACHES)
        check_quality(self.quality)
        check_vae(self.vae)
        check_vae_pieces(self.vae_latents, self.vae_tiles)
        check_text_encoder(self.text_encoder)
        if self.lane not in LANES and not self.lane.startswith("device:"):
            raise ValueError(
                f"lane={shown(self.lane)} is no place where frames are decoded: there are "
                f"{', '.join(LANES)}, and another device, such as 'device:cuda:1'. Use one of them."
            )
        if self.lane.startswith("device:"):
            object.__setattr__(self, "decode_apart", True)
        if self.max_memory is not None:
            size_in_bytes("max_memory", self.max_memory)
        if self.seconds != math.inf:
            real("seconds", self.seconds, above=0, why="a video has at least one frame. Use 60.")
        if self.steps is not None:
            why = "each is a noise level. Use, say, 4."
            whole("steps", self.steps, at_least=1, at_most=MOST_STEPS, why=why)
        if self.guidance is not None:
            check_guidance(self.guidance)
        whole("videos", self.videos, at_least=1, at_most=1000, why="they are counted. Use 1.")
        whole("ranks", self.ranks, at_least=1, at_most=1024, why="GPUs are counted. Use 1.")
        self.image()

    @property
    def free(self) -> frozenset[str]:
        """The fields that are left to the model or the machine, which "max_memory" may change."""
        given = {
            "weights": self.weights != "auto",
            "kv_cache": self.kv_cache != "auto",
            "vae_latents": self.vae_latents != 0,
            "vae_tiles": self.vae_tiles != 1,
            "offload": self.offload,
            "text_encoder": self.text_encoder != "auto",
            "beside": self.lane != "auto" or self.decode_apart,
        }
        return frozenset(name for name, one in given.items() if not one)

    def image(self) -> tuple[int, int] | None:
        """Height and width of a frame; None for the model's own. Raises ValueError for neither."""
        if self.size is None:
            return None
        width, _, height = self.size.lower().partition("x")
        if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
            raise ValueError(
                f"size={self.size!r} is no size of a frame: write its width and height in pixels, "
                f"such as 1280x704."
            )
        return int(height), int(width)
