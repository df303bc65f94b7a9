"""A transformer on the ranks of a group: training steps and generated blocks, in float32."""

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor

from longlive_core import float8, nvfp4
from longlive_core.attention import AnyMask, TableMask
from longlive_core.float8 import Float8TrainingConfig
from longlive_core.kv_cache import CacheLayout, PageCodec, PagedKVCache, Window
from longlive_core.nvfp4 import LinearConfig, TrainingConfig
from longlive_core.sequence_parallel import BalancedPartition, BalancedSP, SequenceGroup, WireCodec
from longlive_models.diffusion import BlockSampler, FlowSchedule
from longlive_models.generator import BlockGenerator
from longlive_models.objectives import (
    frame_losses,
    shot_anchors,
    teacher_forcing_mask,
    teacher_forcing_table,
)
from longlive_models.prompts.storyboard import BlockPrompt
from longlive_models.text import PocketTextEncoder
from longlive_models.wan import ParallelTransformer, WanConfig, WanTransformer
from longlive_models.wan.recomputation import Checkpointing
from tests.models.tiny_pipeline import TEXT

CONFIG = WanConfig(
    dim=64,
    ffn_dim=48,
    num_heads=4,
    num_layers=2,
    in_channels=4,
    out_channels=4,
    text_dim=TEXT.dim,
    text_len=16,  # as many as share a scale of a weight gradient in four bits
    freq_dim=16,
    frames_per_block=4,
)
LATENT_SIZE = (4, 4)
TOKENS = CONFIG.tokens_per_frame(*LATENT_SIZE)
WINDOW = Window(pages=3, sink=1, shot_sink=1)
BATCH, TRAINED_BLOCKS, CUT = 2, 6, 2
MakeCodec = Callable[[BalancedSP], PageCodec]


def stirred(model: torch.nn.Module) -> torch.nn.Module:
    """The same weights on every rank; none of them zero."""
    torch.manual_seed(11)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def training_step(
    process_group: dist.ProcessGroup,
    heads: int,
    kind: str,
    loss_mask: bool,
    checkpointing: Checkpointing = False,
    linears: TrainingConfig | Float8TrainingConfig | None = None,
) -> tuple[float, dict[str, Tensor]]:
    """The loss, and every parameter's gradient after averaging over the group."""
    group = SequenceGroup.of(process_group)
    config = replace(CONFIG, num_heads=heads)
    size = config.frames_per_block
    frames = size * TRAINED_BLOCKS - (1 if kind == "short" else 0)
    partition = BalancedPartition(
        frames=frames, ranks=group.size, tokens_per_frame=TOKENS, frames_per_block=size
    )
    sp = BalancedSP(group, partition, heads=heads)
    torch.manual_seed(3)
    model = WanTransformer(config, exchange=sp, gradient_checkpointing=checkpointing)
    stirred(model)
    if isinstance(linears, Float8TrainingConfig):
        float8.convert_linears(model, linears, reduce_amax=sp.max_over_group)
    elif linears is not None:
        nvfp4.convert_linears(model, linears, reduce_amax=sp.max_over_group)
    drawn = torch.Generator().manual_seed(4)
    shape = (BATCH, config.in_channels, frames, *LATENT_SIZE)
    latents, noise = (torch.randn(shape, generator=drawn) for _ in range(2))
    levels = 1000 * torch.rand(BATCH, TRAINED_BLOCKS, generator=drawn)
    timesteps = levels.repeat_interleave(size, 1)[:, :frames]
    text = torch.randn(BATCH, TRAINED_BLOCKS, TEXT.text_len, TEXT.dim, generator=drawn)
    text = text[:, :1] if kind == "short" else sp.shard_blocks(text, 1)
    counted = torch.rand(BATCH, frames, generator=drawn) < 0.6
    losses = frame_losses(
        model,
        sp.shard(latents, 2),
        text,
        noise=sp.shard(noise, 2),
        timesteps=sp.shard(timesteps, 1),
        mask=natural_mask(kind, partition),
        schedule=FlowSchedule(),
        positions=sp.shard(torch.arange(frames).double(), 0),
    )
    loss = sp.masked_mean(losses, sp.shard(counted, 1) if loss_mask else None)
    loss.backward()
    gradients = {
        name: group.sum(parameter.grad) / group.size
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    return float(loss.detach()), gradients


def natural_mask(kind: str, partition: BalancedPartition) -> AnyMask:
    """All of the past, a window over shots, or that as a table of blocks."""
    anchors = shot_anchors(TRAINED_BLOCKS, [CUT])
    if kind == "table":
        table = teacher_forcing_table(WINDOW, anchors, order=partition.block_order)
        return TableMask(table[None], partition.frames_per_block * TOKENS)
    policy = {"policy": WINDOW, "shot_starts": anchors} if kind == "window" else {}
    return teacher_forcing_mask(
        partition.frames,
        TOKENS,
        partition.frames_per_block,
        **policy,
        order=partition.frame_order,
    )


def generated(
    process_group: dist.ProcessGroup,
    make_codec: MakeCodec,
    wire: WireCodec | None = None,
    linears: LinearConfig | None = None,
) -> Tensor:
    """The latents of two videos in four blocks, cut at one of them, under guidance."""
    group = SequenceGroup.of(process_group)
    partition = BalancedPartition(
        frames=CONFIG.frames_per_block, ranks=group.size, tokens_per_frame=TOKENS, copies=1
    )
    sp = BalancedSP(group, partition, heads=CONFIG.num_heads, wire=wire)
    torch.manual_seed(3)
    model = stirred(ParallelTransformer(CONFIG, sp)).eval()
    assert isinstance(model, ParallelTransformer)
    if linears is not None:
        nvfp4.convert_linears(model, linears, reduce_amax=sp.max_over_group)
    layout = CacheLayout(
        layers=CONFIG.num_layers,
        heads=len(sp.heads),
        head_dim=CONFIG.head_dim,
        tokens_per_page=CONFIG.frames_per_block * TOKENS,
        samples=4,
    )
    torch.manual_seed(5)
    generator = BlockGenerator(
        model,
        PocketTextEncoder(TEXT).eval(),
        PagedKVCache(layout, WINDOW, make_codec(sp)),
        sampler=BlockSampler(name="unipc", steps=2, shift=5.0),
        latent_size=LATENT_SIZE,
        seeds=[7, 8],
        guidance=1.5,
    )
    made = []
    for block in range(4):
        offset = 8.0 if block >= CUT else 0.0
        prompts = [
            BlockPrompt(text=text, shot=int(block >= CUT), cut=block == CUT, offset=offset)
            for text in ("a red circle", "a blue square")
        ]
        made.append(generator.generate(block, prompts).latents)
    return torch.cat(made, 2)


def denoised_beside_clean(process_group: dist.ProcessGroup) -> Tensor:
    """The velocity of noisy frames whose clean copies are seen too, from a shared forward."""
    group = SequenceGroup.of(process_group)
    frames = CONFIG.frames_per_block
    partition = BalancedPartition(frames=frames, ranks=group.size, tokens_per_frame=TOKENS)
    sp = BalancedSP(group, partition, heads=CONFIG.num_heads)
    torch.manual_seed(3)
    model = stirred(ParallelTransformer(CONFIG, sp)).eval()
    drawn = torch.Generator().manual_seed(4)
    shape = (BATCH, CONFIG.in_channels, frames, *LATENT_SIZE)
    clean, noisy = (torch.randn(shape, generator=drawn) for _ in range(2))
    timesteps = 1000 * torch.rand(BATCH, frames * TOKENS, generator=drawn)
    text = torch.randn(BATCH, 1, TEXT.text_len, TEXT.dim, generator=drawn)
    tokens = 2 * frames * TOKENS
    seen = torch.ones(tokens, tokens, dtype=torch.bool)
    with torch.no_grad():
        return model(noisy, timesteps, text, clean=clean, mask=seen)
