"""A transformer that is shared by the ranks of a group; its inputs and outputs are whole blocks.

Source: LongLive-2.0 (arXiv 2605.18739), sequence-parallel inference (Ulysses).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from longlive_core.attention import AnyMask
from longlive_core.nvfp4 import NVFP4Linear
from longlive_core.sequence_parallel import BalancedPartition, BalancedSP, SequenceGroup
from longlive_models.wan.attention import Memory
from longlive_models.wan.config import WanConfig
from longlive_models.wan.recomputation import Checkpointing
from longlive_models.wan.transformer import TextContext, WanTransformer


class ParallelTransformer(WanTransformer):
    """A ``WanTransformer`` whose calls are shared by the ranks of a group.

    Every rank passes the same arguments and gets the same velocity: it computes its own frames,
    attends with its own heads, and gathers the result. A memory holds this rank's heads
    (``len(sp.heads)`` of them) of whole blocks. Weights are those of ``WanTransformer``.

    The velocity has the bytes of one rank's where a row of the blocks' products, and a head of
    attention, has the same bits whatever is computed beside it. ``longlive bench --invariance``
    says where that is so: on an H200, products of 64 rows or more, and each fast attention. Layers
    whose rows are few or narrow, the embeddings and the head, are small: every rank computes them
    in the whole block's shape, with its own rows in their places.

    For generation, ``of`` makes one from any model. In training use a ``WanTransformer`` with
    ``exchange=sp`` instead, and give each rank its own frames, so that each has its own loss.
    """

    def __init__(
        self,
        config: WanConfig,
        sp: BalancedSP,
        *,
        attention: str = "auto",
        masked_attention: str = "auto",
        gradient_checkpointing: Checkpointing = False,
    ) -> None:
        super().__init__(
            config,
            exchange=sp,
            attention=attention,
            masked_attention=masked_attention,
            gradient_checkpointing=gradient_checkpointing,
        )
        self.sp = sp

    @classmethod
    def of(cls, model: WanTransformer, sp: BalancedSP) -> "ParallelTransformer":
        """Make a transformer over the ranks from the layers of ``model``, which are not changed.

        Raises:
            ValueError: linears round their inputs to four bits with the amax of a single rank.
        """
        for name, module in model.named_modules():
            if not isinstance(module, NVFP4Linear) or module.config.activation is None:
                continue
            if module.reduce_amax is None:
                raise ValueError(
                    f"{name} rounds its inputs to four bits by the largest number of its own "
                    f"rank, but {sp.group.size} ranks share them: each would round otherwise. "
                    f"Build it with reduce_amax=sp.max_over_group."
                )
        with torch.device("meta"):
            shared = cls(model.config, sp, gradient_checkpointing=model.gradient_checkpointing)
        for name, child in model.named_children():
            shared.add_module(name, child)
        shared.offload = model.offload
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
        key_positions: Float[Tensor, " seen"] | None = None,
        t_scale: float = 1.0,
        mask: AnyMask | None = None,
        memory: Memory | None = None,
        store: bool = False,
        velocity: bool = True,
    ) -> Float[Tensor, "B out F Y X"] | None:
        """As in ``WanTransformer``; ``mask`` is that of the sequence after the exchange."""
        frames = latents.shape[2]
        if positions is None:
            positions = torch.arange(frames, dtype=torch.float64, device=latents.device)
        if clean is not None:
            clean = self.sp.shard(clean, 2)
        if clean_timesteps is not None:
            clean_timesteps = self._own_steps(clean_timesteps, frames)
        own = super().forward(
            self.sp.shard(latents, 2),
            self._own_steps(timesteps, frames),
            self._own_text(text, frames),
            positions=self.sp.shard(positions, -1),
            key_positions=key_positions,
            t_scale=t_scale,
            mask=mask,
            clean=clean,
            clean_timesteps=clean_timesteps,
            memory=memory,
            store=store,
            velocity=velocity,
        )
        return None if own is None else self.sp.gather(own, 2)

    def embed_latents(self, latents: Tensor) -> Tensor:
        return self._own(super().embed_latents(self._in_place(latents, 2)), 1)

    def embed_timesteps(self, timesteps: Tensor, copies: int) -> tuple[Tensor, Tensor]:
        own = timesteps.unflatten(1, (copies, len(self.sp.frames), -1))
        time, modulation = super().embed_timesteps(self._in_place(own, 2).flatten(1), copies)
        split = (copies, self.sp.partition.frames, -1)
        time, modulation = (
            self._own(x.unflatten(1, split), 2).flatten(1, 3) for x in (time, modulation)
        )
        return time, modulation

    def read_out(self, x: Tensor, time: Tensor) -> Tensor:
        own = (len(self.sp.frames), -1)
        x, time = (self._in_place(y.unflatten(1, own), 1).flatten(1, 2) for y in (x, time))
        whole = super().read_out(x, time).unflatten(1, (self.sp.partition.frames, -1))
        return self._own(whole, 1).flatten(1, 2)

    def _in_place(self, own: Tensor, dim: int) -> Tensor:
        """This rank's frames where they stand in the whole block, the others' being zero."""
        if self.sp.group.size == 1:
            return own
        before, after = self.sp.frames.start, self.sp.partition.frames - self.sp.frames.stop
        return nn.functional.pad(own, (0, 0) * (own.ndim - 1 - dim) + (before, after))

    def _own(self, whole: Tensor, dim: int) -> Tensor:
        """This rank's frames of the whole block."""
        return self.sp.shard(whole, dim)

    def _own_steps(self, timesteps: Tensor, frames: int) -> Tensor:
        """This rank's part of the timesteps, of which there is one for each frame or each token."""
        return self.sp.shard(timesteps.unflatten(1, (frames, -1)), 1).flatten(1)

    def _own_text(self, text: Tensor | TextContext, frames: int) -> Tensor | TextContext:
        """The text segments of this rank's frames."""
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


def partition_blocks(
    config: WanConfig, group: SequenceGroup, latent_size: tuple[int, int]
) -> BalancedSP:
    """Decide which frames and heads of a block each rank of a group computes.

    ``latent_size`` is the (height, width) of the latents.

    Raises:
        ValueError: there are more ranks than a block has frames or the model has heads.
    """
    block = BalancedPartition(
        frames=config.frames_per_block,
        ranks=group.size,
        tokens_per_frame=config.tokens_per_frame(*latent_size),
        copies=1,
    )
    return BalancedSP(group, block, heads=config.num_heads)


def share(model: WanTransformer, sp: BalancedSP) -> WanTransformer:
    """Share a model between the ranks of a partition; for a single rank, return ``model`` itself.

    Raises:
        ValueError: see ``ParallelTransformer.of``.
    """
    return model if sp.group.size == 1 else ParallelTransformer.of(model, sp)
