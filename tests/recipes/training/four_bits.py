"""A training step on the ranks of a group: adapters beside a base whose linears are packed."""

import torch
import torch.distributed as dist
from torch import Tensor

from longlive_core import float8, nvfp4
from longlive_core.float8 import Float8Config
from longlive_core.nvfp4 import LinearConfig, QuantizeConfig, ScaleRule
from longlive_core.sequence_parallel import (
    BalancedPartition,
    BalancedSP,
    SequenceGroup,
    masked_mean,
)
from longlive_models.diffusion import FlowSchedule
from longlive_models.lora import LoRAConfig, add_lora
from longlive_models.objectives import frame_losses
from longlive_models.wan import WanTransformer
from longlive_models.wan.recomputation import Checkpointing
from longlive_recipes.training.parallel import shard
from tests.models.wan.on_ranks import CONFIG, LATENT_SIZE, TEXT, TOKENS, natural_mask, stirred
from tests.recipes.on_ranks import whole

BLOCKS, CLIPS = 4, 4
W4A4 = LinearConfig(activation=QuantizeConfig(rule=ScaleRule.FOUR_OVER_SIX_MSE))


def adapted(
    sp: BalancedSP,
    checkpointing: Checkpointing,
    *,
    base: LinearConfig | Float8Config,
    shared: SequenceGroup,
) -> WanTransformer:
    """A model whose base is packed and whose adapters say something."""
    torch.manual_seed(3)
    model = WanTransformer(CONFIG, exchange=sp, gradient_checkpointing=checkpointing)
    stirred(model)
    if isinstance(base, Float8Config):
        report = float8.convert_linears(model, base)
    else:
        report = nvfp4.convert_linears(model, base, reduce_amax=shared.max)
    assert report.swapped
    add_lora(model, LoRAConfig(rank=4, alpha=4.0))
    torch.manual_seed(4)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def adapter_step(
    process_group: dist.ProcessGroup,
    kind: str,
    base: LinearConfig | Float8Config,
    checkpointing: Checkpointing,
) -> dict[str, Tensor]:
    """The loss and the gradient of each adapter; ranks share out clips ("data") or frames.

    ``base`` says how its linears are packed, and whether what goes into them is rounded as well.
    """
    world = SequenceGroup.of(process_group)
    clips, frames_of = (world, SequenceGroup()) if kind == "data" else (SequenceGroup(), world)
    size = CONFIG.frames_per_block
    frames = size * BLOCKS
    partition = BalancedPartition(
        frames=frames, ranks=frames_of.size, tokens_per_frame=TOKENS, frames_per_block=size
    )
    sp = BalancedSP(frames_of, partition, heads=CONFIG.num_heads)
    model = adapted(sp, checkpointing, base=base, shared=world)
    if world.size > 1:
        shard(model, model.blocks, world)
    drawn = torch.Generator().manual_seed(5)
    shape = (CLIPS, CONFIG.in_channels, frames, *LATENT_SIZE)
    latents, noise = (torch.randn(shape, generator=drawn) for _ in range(2))
    levels = 1000 * torch.rand(CLIPS, BLOCKS, generator=drawn)
    text = torch.randn(CLIPS, BLOCKS, TEXT.text_len, TEXT.dim, generator=drawn)
    each = CLIPS // clips.size
    own = slice(clips.rank * each, (clips.rank + 1) * each)
    losses = frame_losses(
        model,
        sp.shard(latents[own], 2),
        sp.shard_blocks(text[own], 1),
        noise=sp.shard(noise[own], 2),
        timesteps=sp.shard(levels.repeat_interleave(size, 1)[own], 1),
        mask=natural_mask("past", partition),
        schedule=FlowSchedule(),
        positions=sp.shard(torch.arange(frames).double(), 0),
    )
    loss = masked_mean(losses, None, world)
    loss.backward()
    trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert all("lora" in name for name in trained)
    return {"loss": loss.detach(), **{name: whole(grad) for name, grad in trained.items()}}
