"""What a rank does in the training part of ``balanced_sp``: a step of the transformer, encoding.

Two layouts of one loss. Balanced (LongLive-2.0, arXiv 2605.18739): a rank holds the clean and the
noisy copy of the same frames, and encodes those with a halo. Unbalanced: all clean tokens, then all
noisy ones, are dealt out in that order; which frames a rank needs depends on the copy, and every
rank encodes the whole clip.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from longlive_core.sequence_parallel import BalancedSP, SequenceGroup
from longlive_models.diffusion import FlowSchedule, add_noise, velocity
from longlive_models.objectives import frame_losses, teacher_forcing_mask
from longlive_models.vae import WanVAE, encode_window
from longlive_models.wan import WanTransformer
from longlive_models.wan.recomputation import Checkpointing
from longlive_recipes.bench.ranks import peak_gpu_memory, reset_peak_memory, slowest_seconds
from longlive_recipes.bench.shared_sizes import (
    TOLERANCE,
    Sizes,
    check_as_one_rank,
    randomize_zero_layers,
)

FRAMES_PER_PIECE = 8  # latent frames that are encoded at a time: whole clips do not fit into a GPU

Values = dict[str, Tensor]
"""What is compared with one rank's, by name, on the CPU."""


class TrainingStep:
    """A forward and a backward pass of the teacher-forcing loss, in one of the layouts.

    ``checkpointing`` says whether blocks run again in the backward pass: on a GPU they do, unless
    given.

    Attributes:
        model: the transformer; its ``gradient_checkpointing`` can be set between two runs.
        forward: what is called to run the model; the model itself, until it is set.
    """

    def __init__(
        self,
        group: SequenceGroup,
        device: torch.device,
        sizes: Sizes,
        *,
        balanced: bool,
        checkpointing: Checkpointing | None = None,
    ) -> None:
        self.device, self.sizes, self.balanced = device, sizes, balanced
        self.group, self.schedule = group, FlowSchedule()
        partition = sizes.balanced(group.size) if balanced else sizes.unbalanced(group.size)
        self.sp = BalancedSP(group, partition, heads=sizes.model.num_heads)
        torch.manual_seed(0)
        with device:
            self.model = WanTransformer(
                sizes.model,
                exchange=self.sp,
                gradient_checkpointing=device.type == "cuda"
                if checkpointing is None
                else checkpointing,
            )
        randomize_zero_layers(self.model)
        self.forward: Callable[..., Tensor] = self.model
        self.mask = teacher_forcing_mask(
            sizes.latent_frames,
            partition.tokens_per_frame,
            partition.frames_per_block,
            order=partition.frame_order if balanced else None,
        )
        self._draw()

    def run(self) -> Tensor:
        """The loss of all ranks; gradients are in the model, before they are averaged."""
        self.model.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            loss = self._balanced_loss() if self.balanced else self._unbalanced_loss()
        loss.backward()
        return loss.detach()

    def values(self) -> Values:
        """The loss, and the gradient that every token of every layer has a part in."""
        loss = self.run()
        gradient = self.model.patch_embedding.weight.grad
        assert gradient is not None, "the first layer has a gradient"
        mean = self.group.sum(gradient) / self.group.size
        return {"loss": loss.cpu(), "gradient": mean.cpu()}

    def _draw(self) -> None:
        """The same video, noise, text and timesteps on every rank."""
        sizes, config = self.sizes, self.sizes.model
        frames, size = sizes.latent_frames, config.frames_per_block
        drawn = torch.Generator().manual_seed(1)
        shape = (1, config.in_channels, frames, *sizes.latent_size)
        latents, noise = (
            torch.randn(shape, generator=drawn, dtype=torch.float32, device="cpu") for _ in range(2)
        )
        text = torch.randn(
            1,
            frames // size,
            config.text_len,
            config.text_dim,
            generator=drawn,
            dtype=torch.float32,
            device="cpu",
        )
        timesteps = self.schedule.draw(drawn, batch=1, frames=frames, frames_per_block=size)
        tensors = (latents, noise, text, timesteps)
        self.latents, self.noise, self.text, self.timesteps = (x.to(self.device) for x in tensors)
        self.positions = torch.arange(frames, dtype=torch.float64, device=self.device)

    def _balanced_loss(self) -> Tensor:
        sp = self.sp
        losses = frame_losses(
            self.forward,
            sp.shard(self.latents, 2),
            sp.shard_blocks(self.text, 1),
            noise=sp.shard(self.noise, 2),
            timesteps=sp.shard(self.timesteps, 1),
            mask=self.mask,
            schedule=self.schedule,
            positions=sp.shard(self.positions, 0),
        )
        return sp.masked_mean(losses)

    def _unbalanced_loss(self) -> Tensor:
        """The same loss of a sequence that is one run of frames, clean ones first."""
        sp, clean, timesteps = self.sp, self.latents, self.timesteps
        noisy = add_noise(clean, self.noise, self.schedule.sigma(timesteps))
        both = sp.shard(torch.cat((clean, noisy), 2), 2)
        times = sp.shard(torch.cat((torch.zeros_like(timesteps), timesteps), 1), 1)
        predicted = self.forward(
            both,
            times,
            sp.shard_blocks(self.text.repeat(1, 2, 1, 1), 1),
            positions=sp.shard(self.positions.repeat(2), 0),
            mask=self.mask,
        )
        target = sp.shard(velocity(clean, self.noise).repeat(1, 1, 2, 1, 1), 2)
        error = (predicted.float() - target).square().mean((1, 3, 4))
        counted = sp.shard(
            torch.arange(2 * clean.shape[2], dtype=torch.int64, device=self.device), 0
        )
        counted = (counted >= clean.shape[2]).expand_as(error)
        return sp.masked_mean(self.schedule.weight(times) * error, counted)


class Encoding:
    """Encoding one clip: the frames that a rank trains on, or all of it."""

    def __init__(self, group: SequenceGroup, device: torch.device, sizes: Sizes) -> None:
        self.device = device
        self.sp = BalancedSP(group, sizes.balanced(group.size), heads=sizes.model.num_heads)
        torch.manual_seed(0)
        with device:
            self.vae = WanVAE(sizes.vae).eval()
        self.vae.channels_last_()
        drawn = torch.Generator(device).manual_seed(2)
        shape = (1, 3, sizes.pixel_frames, sizes.height, sizes.width)
        self.video = torch.randn(shape, generator=drawn, dtype=torch.float32, device=device).clamp_(
            -1, 1
        )
        self.whole = range(sizes.latent_frames)

    def own(self) -> Tensor:
        """Latents of this rank's frames, from those and a halo before them."""
        return self._encode(self.sp.frames)

    def all(self) -> Tensor:
        """Latents of all frames."""
        return self._encode(self.whole)

    def frames_read(self, rank: int) -> int:
        """Frames that a rank encodes for its own, those of the halo among them."""
        return len(encode_window(self.vae.config, self.sp.partition.frames_of(rank)).pixels)

    def values(self) -> Values:
        """What the ranks encode, put together."""
        return {"latents": self.sp.gather(self.own(), 2).cpu()}

    @torch.no_grad()
    def _encode(self, keep: range) -> Tensor:
        window, stride = encode_window(self.vae.config, keep), self.vae.config.temporal_stride
        frames = self.video[:, :, window.pixels.start : window.pixels.stop]
        first = min(1 + stride * (FRAMES_PER_PIECE - 1), frames.shape[2])
        pieces, state = [frames[:, :, :first]], None
        if first < frames.shape[2]:
            pieces += frames[:, :, first:].split(stride * FRAMES_PER_PIECE, 2)
        made = []
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            for piece in pieces:
                latents, state = self.vae.encode_block(piece, state)
                made.append(latents)
        return torch.cat(made, 2)[:, :, window.drop :]


def work_on_training(
    group: SequenceGroup, device: torch.device, sizes: Sizes, expected: Values | None
) -> dict[str, Any]:
    """Check both layouts and the encoding against one rank's values, then time them.

    Returns:
        ``values`` (one rank's are what others are checked against) and ``row``: seconds of a step,
        seconds of encoding, frames read, MiB that this rank sends in a step.
    """
    values: Values = {}
    row: dict[str, float] = {}
    for layout in ("balanced", "unbalanced"):
        reset_peak_memory(device)
        step = TrainingStep(group, device, sizes, balanced=layout == "balanced")
        found = step.values()
        expected_here = expected or values or found
        for name, value in found.items():
            wanted = expected_here[name]
            check_as_one_rank(f"{layout} {name}", value, wanted, TOLERANCE[device.type])
        values |= {} if values else found
        sent = step.sp.bytes_sent
        row[f"{layout}_seconds"] = slowest_seconds(step.run, group, device, sizes.repeats)
        row[f"{layout}_mib_sent"] = (step.sp.bytes_sent - sent) / sizes.repeats / 2**20
        peak = peak_gpu_memory(group, device)
        row |= {f"{layout}_{name}": value for name, value in peak.items()}
        del step
    encoding = Encoding(group, device, sizes)
    values |= encoding.values()
    if expected is not None:
        got, wanted = values["latents"], expected["latents"]
        check_as_one_rank("encoded latents", got, wanted, TOLERANCE[device.type])
    row["encode_own_seconds"] = slowest_seconds(encoding.own, group, device, sizes.repeats)
    row["encode_all_seconds"] = slowest_seconds(encoding.all, group, device, sizes.repeats)
    row["frames_read"] = max(encoding.frames_read(rank) for rank in range(group.size))
    return {"values": values, "row": row}
