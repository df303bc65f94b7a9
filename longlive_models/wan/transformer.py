"""WanTransformer, which predicts the velocity of noisy latents."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from longlive_core.attention import AnyMask
from longlive_core.block_offload import BlockOffload
from longlive_core.checks import shown
from longlive_core.fused import NORM
from longlive_core.memory import require_room
from longlive_models.choices import check_quality
from longlive_models.wan.attention import AttentionContext, HeadExchange, Memory, NoExchange
from longlive_models.wan.block import WanBlock
from longlive_models.wan.config import WanConfig
from longlive_models.wan.embeddings import Head, PatchEmbedding, sinusoid, unpatchify
from longlive_models.wan.recomputation import (
    Checkpointing,
    KeptAttention,
    check_checkpointing,
    recomputed,
)
from longlive_models.wan.rope import Rotation, rotation


@dataclass(frozen=True, slots=True)
class TextContext:
    """The keys and values of a text in every layer, [batch, segments, length, heads, dim].

    They depend on the text only, so they are the same in all steps and blocks of a prompt.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]


class WanTransformer(nn.Module):
    """The diffusion transformer of Wan2.2-TI2V; a mask or a memory makes it causal by blocks.

    ``forward`` has four uses. Without ``mask`` and ``memory``, every token sees every token. With
    ``mask``, training is causal by blocks; with ``clean`` and ``mask``, it is teacher forcing. With
    ``memory``, the input is one block, which sees the blocks that the memory shows (LongLive-2.0,
    arXiv 2605.18739).

    ``exchange`` splits attention over ranks; ``attention`` and ``masked_attention`` name backends
    of ``longlive_core.attention``; ``gradient_checkpointing`` recomputes each block in the
    backward pass, or all of it but attention (``"attention"``: faster, for the memory of one more
    hidden state a block). Parameters carry the published names. ``offload`` is set where blocks
    wait in host memory, for inference.
    """

    def __init__(
        self,
        config: WanConfig,
        *,
        exchange: HeadExchange | None = None,
        attention: str = "auto",
        masked_attention: str = "auto",
        gradient_checkpointing: Checkpointing = False,
    ) -> None:
        super().__init__()
        check_checkpointing("gradient_checkpointing", gradient_checkpointing)
        require_room(
            f"a transformer's {config.parameters:,} weights in float32",
            4 * config.parameters,
            torch.get_default_device(),
            why="WanConfig's sizes make them. Build it within torch.device('meta') and load it in "
            "a narrower type, or take a smaller config.",
        )
        self.config = config
        self.offload: BlockOffload | None = None
        self.gradient_checkpointing = gradient_checkpointing
        self.exchange = NoExchange() if exchange is None else exchange
        dim = config.dim
        self.patch_embedding = PatchEmbedding(config.in_channels, dim, config.patch_size)
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_dim, dim, dtype=torch.float32),
            nn.GELU(approximate="tanh"),
            nn.Linear(dim, dim, dtype=torch.float32),
        )
        self.time_embedding = nn.Sequential(
            nn.Linear(config.freq_dim, dim, dtype=torch.float32),
            nn.SiLU(),
            nn.Linear(dim, dim, dtype=torch.float32),
        )
        self.time_projection = nn.Sequential(
            nn.SiLU(), nn.Linear(dim, 6 * dim, dtype=torch.float32)
        )
        self.blocks = nn.ModuleList(
            WanBlock(
                config,
                layer,
                attention=attention,
                masked_attention=masked_attention,
            )
            for layer in range(config.num_layers)
        )
        _, rows, columns = config.patch_size
        self.head = Head(dim, rows * columns * config.out_channels, config.eps)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize weights as Wan does: Xavier for linears, zero for biases and the head."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for module in (*self.text_embedding, *self.time_embedding):
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
        nn.init.xavier_uniform_(self.patch_embedding.weight.flatten(1))
        nn.init.zeros_(self.patch_embedding.bias)
        for module in (*self.blocks, self.head):
            nn.init.normal_(module.modulation, std=self.config.dim**-0.5)
        nn.init.zeros_(self.head.head.weight)

    def set_quality(self, quality: str, *, fused: str = "auto") -> None:
        """Choose the fast paths of all blocks.

        Args:
            quality: "lossless", or "high", which takes eight bits.
            fused: the backend of the tables of ``longlive_core.fused``: "auto" (kernels where they
                run), "triton", "reference" (their bits, unfused) or "torch".

        Raises:
            ValueError: there is no such quality or backend.
        """
        check_quality(quality)
        names = ("auto", *(backend.name for backend in NORM.backends))
        if fused not in names:
            raise ValueError(
                f"fused={shown(fused)} is no backend of the fused operations: there are "
                f"{', '.join(names)}. Use one of them."
            )
        for block in self.blocks:
            cast(WanBlock, block).use(quality, fused)

    def embed_text(self, text: Float[Tensor, "B segments length width"]) -> TextContext:
        """The keys and values of a text in every layer; ``forward`` takes them in its place."""
        embedded = self._embed_text(text)
        layers = []
        for layer, block in enumerate(self.blocks):
            with nullcontext() if self.offload is None else self.offload.visit(layer):
                layers.append(cast(WanBlock, block).cross_attn.project_text(embedded))
        return TextContext(tuple(layers))

    def forward(
        self,
        latents: Float[Tensor, "B C F Y X"],
        timesteps: Float[Tensor, "B steps"],
        text: Float[Tensor, "B segments length width"] | TextContext,
        *,
        positions: Float[Tensor, " F"] | Float[Tensor, "B F"] | None = None,
        key_positions: Float[Tensor, " seen"] | None = None,
        t_scale: float = 1.0,
        mask: AnyMask | None = None,
        clean: Float[Tensor, "B C F Y X"] | None = None,
        clean_timesteps: Float[Tensor, "B steps"] | None = None,
        memory: Memory | None = None,
        store: bool = False,
        velocity: bool = True,
        exchange: HeadExchange | None = None,
    ) -> Float[Tensor, "B out F Y X"] | None:
        """Predict the velocity ``noise - x0`` of ``latents``, in their dtype.

        ``timesteps``, from 0 (clean) to 1000 (noise), has an entry for each frame or each token.
        ``text`` has one or more segments, each for the same number of frames; texts shorter than
        ``text_len`` are padded with zeros, which are attended to. ``positions`` are the frames'
        positions in time, in latent frames, shot offsets included; 0, 1, 2, ... by default.

        With ``clean``, attention is over [clean | noisy], ``mask`` is for both halves, and
        ``clean_timesteps`` are 0 by default. With ``memory``, the block is written to it, and kept
        if ``store``. Keys are written rotated; with ``key_positions``, the positions of all frames
        that the memory shows, in its order, they are written unrotated and rotated when read.

        Without ``velocity`` the pass ends when the memory has the keys and values of all layers,
        and None is returned: the clean pass needs no more.

        ``exchange`` is that of this call's sequence over ranks; the model's own unless given.
        """
        self._check(latents, timesteps, text, mask, clean, memory, key_positions)
        if not velocity and memory is None:
            raise ValueError(
                "velocity=False without a memory: then nothing is left of the pass. Give the "
                "memory that it fills."
            )
        _, rows, columns = self.config.patch_size
        grid = (latents.shape[3] // rows, latents.shape[4] // columns)
        copies = 1 if clean is None else 2
        with torch.autocast(latents.device.type, enabled=False):
            x = self.embed_latents(latents)
            if clean is not None:
                x = torch.cat((self.embed_latents(clean), x), dim=1)
                if clean_timesteps is None:
                    clean_timesteps = torch.zeros_like(timesteps)
                timesteps = torch.cat((clean_timesteps, timesteps), dim=1)
            time, modulation = self.embed_timesteps(timesteps, copies)
        key_rotation = None
        if key_positions is not None:
            key_rotation = self._rotation(latents, key_positions, grid, t_scale, 1)
        context = AttentionContext(
            rotation=self._rotation(latents, positions, grid, t_scale, copies),
            mask=mask,
            memory=memory,
            store=store,
            key_rotation=key_rotation,
            exchange=self.exchange if exchange is None else exchange,
            copies=copies,
        )
        x = x.flatten(1, 2).unflatten(1, (timesteps.shape[1], -1))
        x = self._run_blocks(x, modulation, text, context, velocity)
        if not velocity:
            return None
        x, time = x.chunk(copies, dim=1)[-1], time.chunk(copies, dim=1)[-1]
        with torch.autocast(latents.device.type, enabled=False):
            x = self.read_out(x.to(time.dtype), time)
        x = x.flatten(1, 2).unflatten(1, (latents.shape[2], -1))
        return unpatchify(x, grid, self.config.patch_size).to(latents.dtype)

    def embed_latents(self, latents: Tensor) -> Tensor:
        """Tokens of latents: [batch, frames, tokens, dim]."""
        return self.patch_embedding(latents)

    def embed_timesteps(self, timesteps: Tensor, copies: int) -> tuple[Tensor, Tensor]:
        """Embedded timesteps, and the modulation that they give: [batch, steps, dim], [.., 6, dim].

        ``timesteps`` has those of ``copies`` of the frames, one copy after another.
        """
        dtype = self.patch_embedding.weight.dtype
        time = self.time_embedding(sinusoid(timesteps, self.config.freq_dim).to(dtype))
        return time, self.time_projection(time).unflatten(2, (6, -1))

    def read_out(self, x: Tensor, time: Tensor) -> Tensor:
        """What the head makes of tokens, [batch, steps, tokens, dim], and their embedded steps."""
        return self.head(x, time)

    def _run_blocks(
        self,
        x: Tensor,
        modulation: Tensor,
        text: Tensor | TextContext,
        context: AttentionContext,
        velocity: bool,
    ) -> Tensor:
        if isinstance(text, TextContext):
            texts: Sequence[Tensor | tuple[Tensor, Tensor]] = text.layers
        else:
            texts = [self._embed_text(text)] * len(self.blocks)
        last = len(texts) - 1
        for layer, (block, block_text) in enumerate(zip(self.blocks, texts, strict=True)):
            if self.gradient_checkpointing and torch.is_grad_enabled():
                keep = KeptAttention() if self.gradient_checkpointing == "attention" else None
                given = context if keep is None else replace(context, kept=keep)
                x = recomputed(block, x, modulation, block_text, given, keep=keep)
            else:
                fills = layer == last and not velocity
                x = block(x, modulation, block_text, context, fills)
        return x

    def _embed_text(self, text: Tensor) -> Tensor:
        missing = self.config.text_len - text.shape[2]
        if missing < 0 or text.shape[3] != self.config.text_dim:
            raise ValueError(
                f"text must have at most {self.config.text_len} tokens of {self.config.text_dim}, "
                f"got shape {tuple(text.shape)}: this model was trained so. Use its own text "
                f"encoder, or cut the prompt."
            )
        padded = nn.functional.pad(text, (0, 0, 0, missing))
        return self.text_embedding(padded.to(self.patch_embedding.weight.dtype))

    def _rotation(
        self,
        latents: Tensor,
        positions: Tensor | None,
        grid: tuple[int, int],
        t_scale: float,
        copies: int,
    ) -> Rotation:
        if positions is None:
            frames = latents.shape[2]
            positions = torch.arange(frames, dtype=torch.float64, device=latents.device)
        positions = torch.atleast_2d(positions.to(latents.device))
        return rotation(
            positions.repeat(1, copies),  # both copies of a frame stand at the same time
            grid,
            self.config.head_dim,
            theta=self.config.rope_theta,
            t_scale=t_scale,
            dtype=torch.promote_types(self.patch_embedding.weight.dtype, torch.float32),
        )

    def _check(
        self,
        latents: Tensor,
        timesteps: Tensor,
        text: Tensor | TextContext,
        mask: AnyMask | None,
        clean: Tensor | None,
        memory: Memory | None,
        key_positions: Tensor | None,
    ) -> None:
        frames = latents.shape[2]
        tokens = frames * self.config.tokens_per_frame(*latents.shape[3:])
        if timesteps.shape[1] not in (frames, tokens):
            raise ValueError(
                f"timesteps must have one entry a frame ({frames}) or a token ({tokens}), got "
                f"{timesteps.shape[1]}. Repeat a sample's timestep over its frames."
            )
        segments = (text.layers[0][0] if isinstance(text, TextContext) else text).shape[1]
        if frames % segments:
            raise ValueError(
                f"text has {segments} segments for {frames} frames: each must cover equally many. "
                f"Give one segment, or one a block."
            )
        if memory is not None and (mask is not None or clean is not None):
            raise ValueError(
                "memory takes neither mask nor clean: what a memory shows is what is attended to. "
                "Train with mask and clean, generate with memory."
            )
        if key_positions is not None and memory is None:
            raise ValueError(
                "key_positions without a memory: they are the places of what a memory shows. "
                "Give the block's own places as positions."
            )
        if clean is not None and mask is None:
            raise ValueError(
                "clean needs a mask: without one a noisy frame sees its own clean copy. "
                "Build it with objectives.masks.teacher_forcing_mask."
            )
