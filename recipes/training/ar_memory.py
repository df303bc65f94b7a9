"""The memory that AR training will take, and the tokens of its steps."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from longlive_models.lora import add_lora
from longlive_models.lora_config import LoRAConfig
from longlive_models.settings import ModelSpec
from longlive_models.text import PocketTextConfig, PocketTextEncoder, UMT5Config
from longlive_models.vae import WAN22_VAE
from longlive_models.wan import WanConfig, WanTransformer
from longlive_models.wan.recomputation import Checkpointing
from longlive_recipes.configs.ar_options import PLAIN, PLAIN_8
from longlive_recipes.configs.train_ar import TrainAR
from longlive_recipes.training.adamw import matrices_of
from longlive_recipes.training.ar_checks import check_data, spec_of
from longlive_recipes.training.ar_parts import unfilled_parts
from longlive_recipes.training.memory import (
    FLOAT32,
    GRADIENTS,
    LIBRARIES,
    MemoryPlan,
    Rehearsed,
    StepMemory,
    of_parameters,
    of_update,
    rehearse,
)

INDEX_BYTES = 8
"""Of a token's number in a prompt."""


def predict(
    config: TrainAR, *, reads_only: bool = False, beside: Mapping[str, int] | None = None
) -> MemoryPlan:
    """The memory of a run on each of its devices.

    Samples and validations come between steps and are not counted; nor is what drawing and encoding
    clips takes before the first step, nor clips of one's own as long as no cache of them is named.
    Products in four or eight bits are taken as if they had 16.

    Args:
        reads_only: the text encoder is frozen.
        beside: bytes of what lasts beside what is trained, by part, before ranks share it out.

    Raises:
        ValueError: there is no such VAE, or no such cache of clips.
    """
    model, parallel = config.model, config.parallel
    spec = _spec(config)
    latent = spec.latent_size
    phase = max(config.phases, key=lambda phase: phase.batch * phase.length)
    frames = 2 * phase.length * model.frames_per_block // parallel.sequence
    clips = max(1, phase.batch // parallel.data // config.accumulate)
    lora, length = config.adapter.lora, phase.length
    step = _rehearsed(config, clips, frames, length, latent, lora=lora, reads_only=reads_only)
    plain = replace(config, quantized=PLAIN, float8=PLAIN_8)
    parts = unfilled_parts(plain)
    if reads_only:
        parts["text"].requires_grad_(False)
    named = dict(parts.named_parameters())
    parameters = list(named.values())
    trained = sum(one.numel() for one in parameters if one.requires_grad)
    frozen = sum(one.numel() for one in parameters) - trained
    moved = matrices_of(config.optimization, {n: p for n, p in named.items() if p.requires_grad})
    gpu = config.run.accelerator != "cpu"
    bytes_a_state = 1 if config.optimization.states == "8bit" else FLOAT32
    lasting = of_parameters(
        trained,
        frozen,
        averaged=bool(config.plan.averages),
        ranks=parallel.ranks,
        bytes_a_state=bytes_a_state,
        moved_by_muon=sum(named[name].numel() for name in moved),
    )
    lasting |= {name: size // parallel.ranks for name, size in (beside or {}).items()}
    is_clipless = config.data is None and not config.sets
    if not is_clipless:
        lasting["encoded clips"] = _clips(config, spec)
    if gpu:
        lasting["libraries"] = LIBRARIES
    if parallel.ranks > 1:
        layer = sum(one.numel() for one in parameters) // model.num_layers
        lasting["a layer's whole weights and gradients"] = 2 * FLOAT32 * layer
        step = replace(step, gradients=step.gradients // parallel.ranks)
    fused = gpu and config.run.precision != "16-mixed" and not config.optimization.muon
    update = of_update(trained, fused=fused, ranks=parallel.ranks)
    if config.accumulate > 1:
        lasting["gradients of the batch's parts"] = update.pop(GRADIENTS)
        step = replace(step, gradients=0)
    words = "compiled" if config.run.compile else "not compiled"
    if config.in_few_bits:
        words += ", products in 16 bits"
    if is_clipless:
        words += "; name a cache (--data) for the clips that it holds, too"
    return MemoryPlan(
        lasting=lasting,
        step=step,
        update=update,
        tokens=clips * config.accumulate * frames * model.tokens_per_frame(*latent),
        about=f"{clips} clips of {phase.length} blocks at a time, {words}",
    )


def rehearsed_pass(config: TrainAR, *, clips: int, blocks: int, copies: int) -> StepMemory:
    """A pass with gradients over so many clips of so many blocks, read by a frozen text encoder.

    Args:
        copies: 2 where clean blocks stand beside the noisy ones, or 1.
    """
    latent, frames = _spec(config).latent_size, copies * blocks * config.model.frames_per_block
    return _rehearsed(config, clips, frames, blocks, latent, lora=None, reads_only=True)


def _rehearsed(
    config: TrainAR,
    clips: int,
    frames: int,
    blocks: int,
    latent: tuple[int, int],
    *,
    lora: LoRAConfig | None,
    reads_only: bool,
) -> StepMemory:
    return _step(
        config.model,
        config.text,
        lora,
        clips,
        frames,
        blocks,
        latent,
        checkpointing=config.checkpointing,
        autocast=config.run.precision != "32-true",
        compiled=config.run.compile and not config.checkpointing,
        gpu=config.run.accelerator != "cpu",
        reads_only=reads_only,
    )


def _spec(config: TrainAR) -> ModelSpec:
    """The sizes of the model; those of the published one are known before its files are here."""
    if isinstance(config.text, UMT5Config) and not Path(config.vae).exists():
        return ModelSpec(transformer=config.model, vae=WAN22_VAE, settings=config.generation)
    return spec_of(config)


def _clips(config: TrainAR, spec: ModelSpec) -> int:
    """Bytes of the clips that a device holds, prompts included."""
    rows, columns = spec.latent_size
    block = config.model.in_channels * rows * columns * 2 * config.model.frames_per_block
    held = check_data(config, spec.timing)
    each = block // config.parallel.sequence + INDEX_BYTES * config.text.text_len
    return sum(count * blocks * each for blocks, count in held.items())


@cache
def _step(
    model: WanConfig,
    text: PocketTextConfig | UMT5Config,
    lora: LoRAConfig | None,
    clips: int,
    frames: int,
    blocks: int,
    latent: tuple[int, int],
    *,
    checkpointing: Checkpointing,
    autocast: bool,
    compiled: bool,
    gpu: bool,
    reads_only: bool = False,
) -> StepMemory:
    """A step on ``frames`` frames of each clip, both copies, with a text for each block of each."""
    texts = 2 * blocks if frames % (2 * blocks) == 0 else 2
    shape, split = (clips, model.in_channels, frames, *latent), (clips, texts)

    def make(layers: int) -> Rehearsed:
        transformer = WanTransformer(
            replace(model, num_layers=layers), gradient_checkpointing=checkpointing
        )
        encoder = PocketTextEncoder(text) if isinstance(text, PocketTextConfig) else None
        parts: list[nn.Module] = [transformer, *([] if encoder is None else [encoder])]
        if lora is not None:
            add_lora(transformer, lora)
        if encoder is not None and (reads_only or lora is not None):
            encoder.requires_grad_(False)

        def inputs() -> tuple[Tensor, ...]:
            latents = torch.zeros(shape, dtype=torch.float32, device="cpu")
            timesteps = torch.zeros(clips, frames, dtype=torch.float32, device="cpu")
            return latents, timesteps, _prompts(text, clips * texts)

        def call(latents: Tensor, timesteps: Tensor, prompts: Tensor) -> Tensor:
            encoded = prompts if encoder is None else encoder(prompts)
            predicted: Tensor = transformer(latents, timesteps, encoded.unflatten(0, split))
            return predicted

        def pure(weights: Mapping[str, Tensor], *given: Tensor) -> Tensor:
            result: Tensor = torch.func.functional_call(transformer, dict(weights), given)
            return result

        def to_compile() -> tuple[Callable[..., Tensor], tuple[Any, ...]]:
            latents, timesteps, prompts = inputs()
            encoded = prompts if encoder is None else encoder(prompts)
            weights = dict(transformer.named_parameters())
            return pure, (weights, latents, timesteps, encoded.unflatten(0, split))

        return Rehearsed(
            module=nn.ModuleList(parts),
            call=call,
            inputs=inputs,
            compiled=to_compile if compiled else None,
        )

    return rehearse(make, model.num_layers, autocast=autocast, gpu=gpu and not compiled)


def _prompts(text: PocketTextConfig | UMT5Config, count: int) -> Tensor:
    """Numbers of words for an encoder that trains along, or the features of a frozen one."""
    if isinstance(text, PocketTextConfig):
        return torch.zeros(count, text.text_len, dtype=torch.int64, device="cpu")
    return torch.zeros(count, text.text_len, text.dim, dtype=torch.float32, device="cpu")
