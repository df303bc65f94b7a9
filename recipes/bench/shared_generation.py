"""A rank's part in the generation half of ``balanced_sp``: a block, its wires, a whole video."""

import time
from typing import Any

import torch
from torch import Tensor

from longlive_core.float8 import Float8WireCodec
from longlive_core.kv_cache import CacheLayout, PagedKVCache, PlainCodec, Window
from longlive_core.nvfp4 import NVFP4WireCodec
from longlive_core.sequence_parallel import (
    BalancedPartition,
    BalancedSP,
    PlainWireCodec,
    SequenceGroup,
    WireCodec,
)
from longlive_models import LongLivePipeline
from longlive_models.diffusion import euler, step_schedule
from longlive_models.wan import ParallelTransformer, WanTransformer
from longlive_recipes.bench.checks import require
from longlive_recipes.bench.generation import PROMPT
from longlive_recipes.bench.ranks import peak_gpu_memory, reset_peak_memory, slowest_seconds
from longlive_recipes.bench.shared_sizes import (
    TOLERANCE,
    Sizes,
    check_as_one_rank,
    randomize_zero_layers,
    relative_error,
)
from longlive_recipes.bench.shared_training import Values

WIRES: dict[str, WireCodec] = {
    "plain": PlainWireCodec(),
    "fp8": Float8WireCodec(),
    "nvfp4": NVFP4WireCodec(),
}
MAX_WIRE_ERROR = {"plain": 0.0, "fp8": 0.1, "nvfp4": 0.4}
"""How far a block may be from what the plain wire gives, relative to it."""

BLOCK_REPEATS = 3
"""A block takes a small part of a training step's time, and is timed so much more often."""

MAX_PIXEL_DIFFERENCE = {"cpu": 0.5, "cuda": 8.0}
"""How far a pixel of 0 to 255 may be from one rank's on average."""


class Block:
    """The denoising of one block that sees a full window: its steps, and the clean pass."""

    def __init__(
        self, group: SequenceGroup, device: torch.device, sizes: Sizes, wire: WireCodec
    ) -> None:
        config, size = sizes.model, sizes.latent_size
        self.dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        self.device, self.index = device, sizes.pages - 1
        partition = BalancedPartition(
            frames=config.frames_per_block,
            ranks=group.size,
            tokens_per_frame=config.tokens_per_frame(*size),
            copies=1,
        )
        self.sp = BalancedSP(group, partition, heads=config.num_heads, wire=wire)
        torch.manual_seed(0)
        with device:
            model = WanTransformer(config)
        randomize_zero_layers(model)
        self.model = ParallelTransformer.of(model.to(self.dtype).eval(), self.sp)
        layout = CacheLayout(
            layers=config.num_layers,
            heads=len(self.sp.heads),
            head_dim=config.head_dim,
            tokens_per_page=partition.tokens,
        )
        window = Window(pages=sizes.pages, sink=1)
        self.cache = PagedKVCache(layout, window, PlainCodec(self.dtype), device)
        self.schedule = step_schedule(sizes.steps, 5.0)
        drawn = torch.Generator().manual_seed(3)
        shape = (sizes.pages, 1, config.in_channels, config.frames_per_block, *size)
        self.noise = torch.randn(shape, generator=drawn, dtype=torch.float32, device="cpu").to(
            device
        )
        text = torch.randn(
            1,
            1,
            config.text_len,
            config.text_dim,
            generator=drawn,
            dtype=torch.float32,
            device="cpu",
        )
        with torch.no_grad():
            self.text = self.model.embed_text(text.to(device, self.dtype))
            for block in range(self.index):
                self.cache.begin_block(block)
                self._velocity(self.noise[block], 0.0, block, store=True)
                self.cache.commit()

    @torch.no_grad()
    def run(self) -> Tensor:
        """The block's latents; it can be made again, for it is not committed."""
        self.cache.begin_block(self.index)
        latents = euler(
            lambda x, timestep: self._velocity(x, timestep, self.index),
            self.noise[self.index],
            self.schedule,
        )
        self._velocity(latents, 0.0, self.index, store=True)
        return latents

    def exchanged(self) -> int:
        """Bytes that this rank sends in the exchanges around attention of one block.

        Those that put the velocity together at the end of each pass are not among them.
        """
        before = self.sp.bytes_sent
        self.run()
        sent = self.sp.bytes_sent - before
        before = self.sp.bytes_sent
        self.sp.gather(self.sp.shard(self.noise[0].to(self.dtype), 2), 2)
        return sent - self.schedule.steps * (self.sp.bytes_sent - before)

    def _velocity(
        self, latents: Tensor, timestep: float, block: int, *, store: bool = False
    ) -> Tensor:
        frames = latents.shape[2]
        return self.model(
            latents.to(self.dtype),
            torch.full((1, frames), timestep, dtype=torch.float32, device=self.device),
            self.text,
            positions=torch.arange(
                block * frames, (block + 1) * frames, dtype=torch.float64, device=self.device
            ),
            memory=self.cache,
            store=store,
            velocity=not store,
        )


def work_on_block(
    group: SequenceGroup, device: torch.device, sizes: Sizes, expected: Values | None
) -> dict[str, Any]:
    """Check a block against one rank's under each wire, then time it.

    Returns:
        ``values``, ``row`` of the plain wire, and ``wires``: a row for each if there are others to
        send to. ``times_fewer_than_bf16`` compares with two bytes a number, ``seconds_to_launch``
        is how long Python takes until a GPU has all of its work: no block is faster.
    """
    rows: dict[str, dict[str, float]] = {}
    values: Values = {}
    peak: dict[str, float] = {}
    for name, wire in WIRES.items():
        if group.size == 1 and name != "plain":
            continue
        reset_peak_memory(device)
        block = Block(group, device, sizes, wire)
        latents = block.run().cpu()
        if name == "plain":
            values["latents"] = latents
            if expected is not None:
                wanted = expected["latents"]
                check_as_one_rank("latents of a block", latents, wanted, TOLERANCE[device.type])
        error = relative_error(latents, values["latents"])
        require(error <= MAX_WIRE_ERROR[name], f"the {name} wire is {error:.2g} off: {wire}")
        sent = block.exchanged()
        repeats = BLOCK_REPEATS * sizes.repeats
        seconds = slowest_seconds(block.run, group, device, repeats)
        rows[name] = {"seconds_per_block": seconds, "mib_sent": sent / 2**20, "error": error}
        if device.type == "cuda":
            launching = slowest_seconds(block.run, group, device, repeats, launched=True)
            rows[name]["seconds_to_launch"] = launching
        peak = peak or peak_gpu_memory(group, device)
        del block
    itemsize = torch.float32.itemsize if device.type == "cpu" else torch.bfloat16.itemsize
    for row in rows.values():
        if group.size > 1:
            in_bf16 = rows["plain"]["mib_sent"] * torch.bfloat16.itemsize / itemsize
            row["times_fewer_than_bf16"] = in_bf16 / row["mib_sent"]
    shown = ("seconds_per_block", "seconds_to_launch", "mib_sent")
    row = {name: rows["plain"][name] for name in shown if name in rows["plain"]} | peak
    return {"values": values, "row": row, "wires": rows if group.size > 1 else {}}


def work_on_video(
    group: SequenceGroup, device: torch.device, sizes: Sizes, expected: Values | None
) -> dict[str, Any]:
    """Make one video as ``longlive generate --nproc`` does on its ranks; the first rank decodes.

    Returns:
        ``values``: frames, uint8 [frames, height, width, 3]; empty where another rank decodes.
        ``row``: seconds from the prompt to the last frame, MiB that a rank sends, and how far a
        pixel is from one rank's on average, of 255.
    """
    pipe = LongLivePipeline.from_pretrained(sizes.video_model, device=str(device), group=group)

    def make() -> list[Tensor]:
        with pipe.stream(PROMPT, seconds=sizes.video_seconds, seed=7) as stream:
            return [block.frames for block in stream]

    sent, began = pipe.sp.bytes_sent, time.perf_counter()
    frames = torch.cat(make()).cpu()
    seconds = torch.tensor(time.perf_counter() - began, dtype=torch.float64, device=device)
    row: dict[str, float] = {
        "seconds": float(group.max(seconds)),
        "mib_sent": (pipe.sp.bytes_sent - sent) / 2**20,
    }
    if expected is not None and group.rank == 0:
        wanted = expected["frames"]
        require(frames.shape == wanted.shape, f"{frames.shape} frames, not {wanted.shape}")
        distance = float((frames.float() - wanted.float()).abs().mean())
        most = MAX_PIXEL_DIFFERENCE[device.type]
        require(distance <= most, f"pixels are {distance:.3g} off on average, more than {most:g}")
        row["mean_pixel_difference"] = distance
    return {"values": {"frames": frames}, "row": row}
