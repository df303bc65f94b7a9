"""What a model will take before it runs: memory by part, seconds, disk, and what would make it fit.

No weights are read and nothing is allocated. Memory was checked against measured peaks: of
LongLive-2.0-5B on an H200 it is within 10 %, of the pocket on a CPU within 15 %.

Command:  longlive plan --gpu 4090
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

from longlive_models.placing import text_place
from longlive_recipes.configs.plan import PlanWishes as PlanWishes
from longlive_recipes.planning.advice import Advice, advise, fits, pick
from longlive_recipes.planning.hardware import Hardware, here, named, with_memory, within
from longlive_recipes.planning.memory import (
    Choice,
    Memory,
    computed_bytes,
    memory_of,
    resized,
)
from longlive_recipes.planning.sizes import Sizes, sizes_of
from longlive_recipes.planning.speed import Speed, file_bytes, speed_of

BITS_A_PIXEL = 0.12
"""Bits that a pixel of an mp4 takes at its usual quality (crf 16); pictures differ by half."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a generation will take.

    Attributes:
        model: its name.
        hardware: the device.
        choice: how it is run.
        size: width and height of a frame.
        memory: bytes by part on the device that denoises.
        fits: whether the device has room.
        speed: seconds of its parts.
        video_seconds: how long the video is.
        video_frames: of it; None without an end.
        first_block_frames: frames that are there after ``speed.first_frame`` seconds.
        model_bytes, video_bytes: what they take on disk.
        advice: the smallest change that makes it fit; None if it fits, or none does.
        picked: what was picked for ``max_memory``, in words to type.
    """

    model: str
    hardware: Hardware
    choice: Choice
    size: str
    memory: Memory
    fits: bool
    speed: Speed
    video_seconds: float
    video_frames: int | None
    first_block_frames: int
    model_bytes: int
    video_bytes: int | None
    advice: Advice | None
    picked: tuple[str, ...] = ()

    @property
    def video_wall_seconds(self) -> float:
        """How long the video takes, the model being loaded."""
        if self.video_frames is None:
            return math.inf
        later = max(0, self.video_frames - self.first_block_frames)
        return self.speed.first_frame + later / self.speed.frames_per_second

    def to_dict(self) -> dict[str, Any]:
        """The forecast as values that JSON can hold."""
        usable = self.hardware.memory - self.hardware.reserved
        advice = None
        if self.advice is not None:
            advice = {
                "options": list(self.advice.options),
                "peak": self.advice.memory.peak,
                "needed": self.advice.memory.needed,
            }
        endless = self.video_frames is None
        return {
            "model": self.model,
            "hardware": {**asdict(self.hardware), "usable": usable},
            "choice": asdict(self.choice),
            "size": self.size,
            "memory": {
                **self.memory.parts(),
                "peak": self.memory.peak,
                "needed": self.memory.needed,
            },
            "fits": self.fits,
            "picked": list(self.picked),
            "advice": advice,
            "speed": asdict(self.speed),
            "video": {
                "seconds": None if endless else self.video_seconds,
                "frames": self.video_frames,
                "wall_seconds": None if endless else self.video_wall_seconds,
                "bytes": self.video_bytes,
            },
            "model_bytes": self.model_bytes,
        }


def run(wishes: PlanWishes) -> Forecast:
    """Say what a generation will take.

    Raises:
        ValueError: there is no such model, or frames of such a size cannot be.
    """
    known = here() if wishes.gpu is None else named(wishes.gpu)
    hardware = within(with_memory(known, wishes.memory), wishes.max_memory)
    sizes = sizes_of(wishes.model, vae=wishes.vae)
    choice = choose(wishes, sizes, hardware)
    picked: tuple[str, ...] = ()
    if wishes.max_memory is not None:
        found = pick(sizes, choice, hardware, free=wishes.free, quality=wishes.quality)
        if found is not None:
            choice, picked = found.choice, found.options
    memory = memory_of(sizes, choice, hardware)
    speed = speed_of(sizes, choice, hardware)
    enough = fits(memory, hardware)
    spec = resized(sizes, choice).spec
    frames = None if wishes.seconds == math.inf else spec.timing.frames_in(wishes.seconds)
    height, width = spec.settings.height, spec.settings.width
    video = None if frames is None else int(frames * height * width * BITS_A_PIXEL / 8)
    return Forecast(
        model=sizes.name,
        hardware=hardware,
        choice=choice,
        size=f"{width}x{height}",
        memory=memory,
        fits=enough,
        speed=speed,
        video_seconds=wishes.seconds,
        video_frames=frames,
        first_block_frames=spec.timing.frames(1),
        model_bytes=file_bytes(sizes, choice.weights),
        video_bytes=video,
        advice=None
        if enough
        else advise(sizes, choice, hardware, free=wishes.free, quality=wishes.quality),
        picked=picked,
    )


def choose(wishes: PlanWishes, sizes: Sizes, hardware: Hardware) -> Choice:
    """How the model would be run: "auto" is decided as ``Runtime.choose`` and the pipeline do."""
    settings = sizes.spec.settings
    plain = "bf16" if hardware.gpu else "fp32"
    usual = "fp8" if wishes.quality == "high" and hardware.fp8 else plain
    needed = sizes.text * computed_bytes(usual, hardware)
    place = text_place(wishes.text_encoder, needed, hardware.memory if hardware.gpu else None)
    steps = wishes.steps
    if steps is None:
        steps = settings.steps if isinstance(settings.steps, int) else settings.steps[-1]
    guidance = settings.guidance if wishes.guidance is None else wishes.guidance
    return Choice(
        weights=usual if wishes.weights == "auto" else wishes.weights,
        kv_cache=plain if wishes.kv_cache == "auto" else wishes.kv_cache,
        steps=steps,
        guidance=guidance != 1,
        ranks=wishes.ranks,
        decode_apart=wishes.decode_apart,
        image=wishes.image(),
        vae_latents=wishes.vae_latents,
        vae_tiles=wishes.vae_tiles,
        offload=wishes.offload,
        text_encoder=place,
        videos=wishes.videos,
        beside=wishes.lane != "inline" and (hardware.gpu or wishes.lane != "auto"),
        quality=wishes.quality,
    )
