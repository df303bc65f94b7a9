"""A transformer over the ranks of a group that takes and gives whole videos, or whole blocks.

Source: LongLive-2.0 (arXiv 2605.18739), sequence-parallel inference (Ulysses).
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from longlive_core.nvfp4 import NVFP4Linear
from longlive_core.sequence_parallel import BalancedPartition, BalancedSP, SequenceGroup
from longlive_models.wan.attention import SelfAttention
from longlive_models.wan.config import WanConfig
from longlive_models.wan.transformer import TextContext, WanTransformer


class ParallelTransformer(WanTransformer):
    """``WanTransformer`` whose every call is shared by the ranks of a group.

    Every rank passes the same arguments and gets the same velocity: it works on its own frames,
    attends with its own heads, and gathers the result. A memory holds this rank's heads
    (``len(sp.heads)`` of them) of whole blocks. Weights are those of ``WanTransformer``.

    For generation ``share`` makes one of any model. In training, give each rank's own frames to a
    ``WanTransformer`` with ``exchange=sp`` instead, so that losses stay apart.
    """

    def __init__(self, config: WanConfig, sp: BalancedSP, **how: Any) -> None:
        super().__init__(config, exchange=sp, **how)
        self.sp = sp

    @classmethod
    def of(cls, model: WanTransformer, sp: BalancedSP) -> "ParallelTransformer":
        """The layers of ``model``, which gives them away, shared by the ranks from now on.

        Linears in four bits take the largest activation of all ranks for their tensor scale.
        """
        with torch.device("meta"):
            shared = cls(model.config, sp, gradient_checkpointing=model.gradient_checkpointing)
        for name, child in model.named_children():
            shared.add_module(name, child)
        for module in shared.modules():
            if isinstance(module, SelfAttention):
                module.exchange = sp
            elif isinstance(module, NVFP4Linear):
                module.reduce_amax = sp.max_over_group
        return shared.train(model.training)

    def forward(
        self,
        latents: Float[Tensor, "B C F Y X"],
        timesteps: Float[Tensor, "B steps"],
        text: Float[Tensor, "B segments length width"] | TextContext,
        *,
        positions: Float[Tensor, " F"] | Float[Tensor, "B F"] | None = None,
        clean: Float[Tensor, "B C F Y X"] | None = None,
        clean_timesteps: Float[Tensor, "B steps"] | None = None,
        **how: Any,
    ) -> Float[Tensor, "B out F Y X"]:
        """As in ``WanTransformer``; ``mask`` speaks of the sequence after the exchange."""
        frames = latents.shape[2]
        if positions is None:
            positions = torch.arange(frames, dtype=torch.float64, device=latents.device)
        if clean is not None:
            how["clean"] = self.sp.shard(clean, 2)
        if clean_timesteps is not None:
            how["clean_timesteps"] = self._own_steps(clean_timesteps, frames)
        own = super().forward(
            self.sp.shard(latents, 2),
            self._own_steps(timesteps, frames),
            self._own_text(text, frames),
            positions=self.sp.shard(positions, -1),
            **how,
        )
        return self.sp.gather(own, 2)

    def _own_steps(self, timesteps: Tensor, frames: int) -> Tensor:
        """This rank's part of one timestep a frame, or one a token."""
        return self.sp.shard(timesteps.unflatten(1, (frames, -1)), 1).flatten(1)

    def _own_text(self, text: Tensor | TextContext, frames: int) -> Tensor | TextContext:
        """The segments that this rank's frames have."""
        segments = (text.layers[0][0] if isinstance(text, TextContext) else text).shape[1]
        if segments == 1:
            return text
        own, length = self.sp.frames, frames // segments
        if own.start % length or own.stop % length:
            raise ValueError(
                f"rank {self.sp.group.rank} holds frames {own.start} to {own.stop - 1}, but each "
                f"of {segments} segments of text covers {length} frames: a rank holds whole "
                f"segments. Give the partition frames_per_block={length}, or one segment."
            )
        mine = slice(own.start // length, own.stop // length)
        if isinstance(text, TextContext):
            return TextContext(tuple((k[:, mine], v[:, mine]) for k, v in text.layers))
        return text[:, mine]


def share(
    model: WanTransformer, group: SequenceGroup, latent_size: tuple[int, int]
) -> tuple[WanTransformer, BalancedSP]:
    """The model over a group that generates blocks together, and who holds what of a block.

    ``latent_size`` is (height, width) in latent pixels. One rank alone keeps ``model`` itself.

    Raises:
        ValueError: more ranks than a block has frames, or the model heads.
    """
    config = model.config
    block = BalancedPartition(
        frames=config.frames_per_block,
        ranks=group.size,
        tokens_per_frame=config.tokens_per_frame(*latent_size),
        copies=1,
    )
    sp = BalancedSP(group, block, heads=config.num_heads)
    return (model if group.size == 1 else ParallelTransformer.of(model, sp)), sp
