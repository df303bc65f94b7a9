"""Train a light decoder: a narrower one that gives the frames of a VAE's full decoder.

It begins with the full decoder's largest channels and learns from latents alone: those of drawn
clips, or of a cache of one's own clips, with a little noise. Both decoders go through a clip piece
by piece, each with its own state, as they do when a video is made. The loss is L1 plus squared
error.

Command:  longlive train vae_light_pocket          Measured: see recipes/README.md
"""

import copy
import json
import logging
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from longlive_models.checkpoints.folder import check_counts, fingerprint, unfilled
from longlive_models.parts import PARTS
from longlive_models.stream import Video, to_frames
from longlive_models.vae import VAEConfig, WanVAE
from longlive_models.vae.light import FOLDER, lighter, save_light
from longlive_models.vae.pruning import narrower
from longlive_recipes.configs.distill_vae import DistillVAE as DistillVAE
from longlive_recipes.configs.distill_vae import vae_light_5b, vae_light_pocket, vae_light_tiny
from longlive_recipes.data.cache_index import CacheIndex, read_index
from longlive_recipes.data.splits import Split, split_clips
from longlive_recipes.data.training_clips import load_clips
from longlive_recipes.moving_shapes.clips import clip
from longlive_recipes.moving_shapes.dataset import encode_clips
from longlive_recipes.moving_shapes.latent_cache import trained_vae
from longlive_recipes.training.export import find_vae
from longlive_recipes.training.fit import check_machine, check_run, fit, load_average
from longlive_recipes.training.memory import MemoryPlan
from longlive_recipes.training.module import TrainingModule, maybe_compile
from longlive_recipes.training.run_checks import check_memory, check_not_replaced
from longlive_recipes.training.vae_losses import light_losses
from longlive_recipes.training.vae_memory import predict_light

PRESETS = {
    "vae_light_pocket": vae_light_pocket,
    "vae_light_5b": vae_light_5b,
    "vae_light_tiny": vae_light_tiny,
}

_log = logging.getLogger(__name__)


class DistillVAEModule(TrainingModule):
    """The light decoder, with the full VAE beside it, which is frozen and in no checkpoint.

    Attributes:
        light: the weights that a light decoder has of its own.
        vae: the VAE that decodes with them; its encoder is the full one's.
    """

    def __init__(self, config: DistillVAE) -> None:
        super().__init__(config.budget, config.optimization, config.seed)
        self.config = config
        full = trained_vae(config.vae).requires_grad_(False)
        made = lighter(full, light_dim(config, full.config))
        self.light = nn.ModuleDict({"conv2": made.conv2, "decoder": made.decoder})
        self.light.requires_grad_(True).train()
        self._vaes: tuple[WanVAE, WanVAE] = (full, made)  # a tuple: no parts of the module

    @property
    def vae(self) -> WanVAE:
        return self._vaes[1]

    @property
    def full(self) -> WanVAE:
        return self._vaes[0]

    def on_fit_start(self) -> None:
        for vae in self._vaes:
            vae.to(self.device)
            if self.device.type == "cuda":
                vae.channels_last_()
        self.teach = maybe_compile(self.full.decode_block, self.config.run.compile)
        self.learn = maybe_compile(self.vae.decode_block, self.config.run.compile)
        self.latents, self.fresh = read_latents(self.config, self.full, self.device)

    @property
    def fps(self) -> float:
        """The clips' frames a second."""
        data = self.config.data
        return self.config.world.fps if data is None else read_index(Path(data)).settings.fps

    def training_step(self, step: int) -> dict[str, Tensor]:
        config, generator = self.config, self.choices(step)
        pieces = config.latents // config.piece
        device = generator.device
        some = torch.randint(len(self.latents), (config.batch,), generator=generator, device=device)
        last = int(torch.randint(pieces, (), generator=generator, device=device))
        latents = self.latents[some.to(self.latents.device)].float()
        strength = config.jitter * torch.rand_like(latents[:, :1, :1, :1, :1])
        latents = latents + strength * torch.randn_like(latents)
        split = latents.split(config.piece, 2)[: last + 1]
        return light_losses(self.teach, self.learn, list(split))

    @property
    def measured(self) -> tuple[str, ...]:
        return "psnr", "psnr_worst"

    def frames_of_step(self) -> int:
        config = self.config
        return config.batch * config.piece * self.full.config.temporal_stride

    def validate(self) -> dict[str, float]:
        return write_light(self.vae, self.full, self.fresh, _folder(self.config))

    def samples(self) -> dict[str, Video]:
        """Clips of the full decoder on the left, of the light one on the right."""
        found = {}
        for number, latents in enumerate(self.fresh[: self.config.sample_clips].split(1)):
            pair = [vae.decode(latents.float()) for vae in self._vaes]
            frames = to_frames(torch.cat(pair, -1)[0]).cpu()
            found[f"clip_{number}"] = Video(frames, self.fps)
        return found


def read_latents(config: DistillVAE, full: WanVAE, device: torch.device) -> tuple[Tensor, Tensor]:
    """The latents to learn from and those to measure on, bfloat16 [clips, C, F, Y, X]."""
    if config.data is not None:
        index, cache = read_index(Path(config.data)), Path(config.data)
        split = _split(index, config)
        found = [
            load_clips(
                cache, clips, blocks=config.blocks, frames_per_block=config.frames_per_block
            ).latents.to(device)
            for clips in (split.train[config.blocks], split.fresh[config.blocks])
        ]
        return found[0], found[1]
    _log.info("drawing and encoding %d clips", config.clips + config.validation_clips)
    return (
        _encode(config, full, config.seed, config.clips, device),
        _encode(config, full, config.seed + 1, config.validation_clips, device),
    )


def _split(index: CacheIndex, config: DistillVAE) -> Split:
    return split_clips(index, {config.blocks}, config.validation_clips, phases=False)


def _encode(
    config: DistillVAE, full: WanVAE, seed: int, count: int, device: torch.device
) -> Tensor:
    made = [
        clip(seed, number, clip_format=config.world, blocks=config.blocks)
        for number in range(count)
    ]
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        return encode_clips(full.encode, made, device=device).latents


@torch.no_grad()
def write_light(light: WanVAE, full: WanVAE, latents: Tensor, folder: Path) -> dict[str, float]:
    """Write a light decoder to ``folder`` in bfloat16, with its scores.

    The weights are rounded first: what is measured is what is written.
    """
    rounded = copy.deepcopy(light)
    for parameter in rounded.parameters():
        parameter.copy_(parameter.to(torch.bfloat16))
    scores = measure(rounded, full, latents)
    save_light(rounded, folder)
    (folder / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")
    return scores


@torch.no_grad()
def measure(light: WanVAE, full: WanVAE, latents: Tensor) -> dict[str, float]:
    """Peak signal-to-noise ratio in dB of the light decoder's frames against the full one's.

    Over all clips, and of the worst of them. Both decode in float32.
    """
    errors = []
    with torch.autocast(latents.device.type, enabled=False):
        for one in latents.split(1):
            pair = [vae.decode(one.float()).clamp(-1, 1) for vae in (light, full)]
            errors.append((pair[0] - pair[1]).double().square().mean().item() / 4)
    mean, worst = sum(errors) / len(errors), max(errors)
    return {"psnr": -10 * math.log10(mean), "psnr_worst": -10 * math.log10(worst)}


def light_dim(config: DistillVAE, full: VAEConfig) -> int:
    """The light decoder's width. Raises ValueError for one that is not narrower."""
    half = max(1, full.decoder_dim // 2)
    return narrower(full, config.decoder_dim or half).decoder_dim


def check(config: DistillVAE, *, resume: str | None = None) -> None:
    """Raise ValueError for what can be seen to fail before anything is drawn or written."""
    device = check_machine(config.run)
    full = read_full(config.vae)
    light_dim(config, full)
    size, clips = _clips_of(config, full)
    check_memory(memory_needed(config, full, size=size, clips=clips), device)
    check_run(
        config.run,
        config,
        resume=resume,
        steps=config.budget.steps,
        parts=lambda: light_parts(config, full),
    )
    check_not_replaced(_folder(config), vae=str(find_vae(config.vae)), data=config.data)


def read_full(vae: str) -> VAEConfig:
    """The config of the full VAE, whose files are all there; reads no weights."""
    folder, row = find_vae(vae), PARTS["vae"]["WanVAE"]
    config: VAEConfig = row.read_config(folder)
    check_counts(folder, row.counts(config))
    return config


def light_parts(config: DistillVAE, full: VAEConfig) -> nn.ModuleDict:
    """The parts that are trained, by name, without weights."""
    with unfilled():
        made = WanVAE(narrower(full, light_dim(config, full)))
        light = nn.ModuleDict({"conv2": made.conv2, "decoder": made.decoder})
    return nn.ModuleDict({"light": light})


def check_own_clips(config: DistillVAE) -> None:
    """Raise ValueError for a cache that is not one for a config, on any machine."""
    _clips_of(config, read_full(config.vae))


def _clips_of(config: DistillVAE, full: VAEConfig) -> tuple[tuple[int, int], int]:
    """Height and width of the clips of a run, and how many it trains on.

    Raises:
        ValueError: clips that do not fit the VAE, or a cache that is not one for the config.
    """
    if config.data is None:
        _check_world(config, full)
        return (config.world.size, config.world.size), config.clips
    index = read_index(Path(config.data))
    _check_data(index, config, full)
    size = (index.settings.height, index.settings.width)
    return size, len(_split(index, config).train[config.blocks])


def _check_world(config: DistillVAE, full: VAEConfig) -> None:
    """Raise ValueError where drawn clips do not fit the VAE."""
    frames, size = config.world.first_frame(config.blocks), config.world.size
    if full.pixel_frames(config.latents) != frames or size % full.spatial_stride:
        raise ValueError(
            f"clips of {frames} frames of {size} pixels do not fit the VAE: {config.latents} "
            f"latent frames are {full.pixel_frames(config.latents)} frames, and sides are "
            f"multiples of {full.spatial_stride}. Change world, blocks or frames_per_block."
        )


def _check_data(index: CacheIndex, config: DistillVAE, full: VAEConfig) -> None:
    """Raise ValueError for a cache that another VAE encoded, or with blocks of another length."""
    held = index.settings
    if held.frames_per_block != config.frames_per_block:
        raise ValueError(
            f"frames_per_block is {config.frames_per_block}, and the clips of {config.data} were "
            f"prepared for {held.frames_per_block}. Use --set "
            f"frames_per_block={held.frames_per_block}."
        )
    if fingerprint(find_vae(config.vae)) != held.vae:
        raise ValueError(
            f"vae={config.vae!r} is not the VAE that encoded {config.data}: its latents would "
            f"decode to other pictures. Name that one, or prepare the clips again with it."
        )
    _split(index, config)


def predict(config: DistillVAE) -> MemoryPlan:
    """The memory of a run on its device. Raises ValueError as ``check`` does for VAE and clips."""
    full = read_full(config.vae)
    size, clips = _clips_of(config, full)
    light = narrower(full, light_dim(config, full))
    return predict_light(config, full, light, size=size, clips=clips)


def memory_needed(
    config: DistillVAE, full: VAEConfig, *, size: tuple[int, int], clips: int
) -> dict[str, float]:
    """Bytes that the device holds at one time at the very least, by what takes them."""
    rows, columns = (side // full.spatial_stride for side in size)
    latent = full.latent_channels * rows * columns
    with unfilled():
        whole = WanVAE(full)
    own = sum(one.numel() for one in light_parts(config, full).parameters())
    numbers = 2 if config.run.precision != "32-true" else 4
    places = config.batch * config.piece * full.temporal_stride * size[0] * size[1]
    places //= full.patch_size**2
    light = narrower(full, light_dim(config, full))
    stage = light.decoder_dims[-2] + 5 * light.decoder_dims[-1]
    stage += 6 * light.decoder_dims[-1] * full.num_res_blocks
    return {
        "the full VAE": 4.0 * sum(one.numel() for one in whole.parameters()),
        "the light decoder, its optimizer and its average": 20.0 * own,
        "latents (clips, validation_clips)": 2.0
        * (clips + config.validation_clips)
        * config.latents
        * latent,
        "features of the last stage (batch, piece)": float(numbers) * places * stage,
        "frames of a step (batch, piece)": 4.0 * 3 * 3 * places * full.patch_size**2,
    }


def run(config: DistillVAE, *, resume: str | None = None) -> Path:
    """Train, measure on clips that were not trained on, and write ``<output>/vae_light``."""
    check(config, resume=resume)
    module = DistillVAEModule(config)
    fit(module, config.run, config, resume=resume)
    return _write(module)


def export(config: DistillVAE, *, resume: str) -> Path:
    """Measure and write the folder ``<output>/vae_light`` of a checkpoint."""
    check(config, resume=resume)
    module = DistillVAEModule(config)
    load_average(module, resume)
    module.latents, module.fresh = read_latents(config, module.full, torch.device("cpu"))
    return _write(module)


def _write(module: DistillVAEModule) -> Path:
    folder = _folder(module.config)
    for vae in (module.full, module.vae):
        vae.to(module.fresh.device).eval()
    write_light(module.vae, module.full, module.fresh, folder)
    return folder


def _folder(config: DistillVAE) -> Path:
    return Path(config.run.output) / FOLDER
