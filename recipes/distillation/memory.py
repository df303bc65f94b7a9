"""What a distillation needs of a GPU's memory, predicted from sizes alone: nothing is loaded.

A GPU holds what does not depend on the batch (weights, gradients, AdamW's numbers, averages) and,
for each video or clip of its batch, the largest of what the parts of a step take. With ``T`` tokens
a block, ``D`` channels, ``F`` of the feed-forward and ``L`` layers, in bfloat16:

    keys and values of a window     2 * 2 D L T * pages             bytes
    kept for one layer's backward   2 * (24 D + 4 F)                a token
    kept with checkpointing         2 * D L  and one layer's        a token
    a pass without gradients        2 * (8 D + 2 F)                 a token

A share of the memory is left free for the allocator, kernels and the VAE of samples.
"""

from dataclasses import dataclass
from pathlib import Path

from longlive_models.checkpoints.folder import read_config, unfilled
from longlive_models.checkpoints.hub import EMBEDDED
from longlive_models.lora import adapters, add_lora
from longlive_models.vae import VAEConfig
from longlive_models.vae.config import WAN22_VAE
from longlive_models.wan import WanConfig, WanTransformer
from longlive_recipes.configs.distill import Distill
from longlive_recipes.configs.distill_cm import DistillCM
from longlive_recipes.configs.distill_dmd import DistillDMD
from longlive_recipes.distillation.quick import QuickStudent
from longlive_recipes.training.export import find_vae

GPUS = (1, 2, 4, 8)
SIZES = (80, 141)
"""GB of a GPU: an H100's and an H200's."""

USED = 0.92
"""The share of a GPU's memory that a prediction may fill."""

GB = 1e9
NARROW, WIDE = 2, 4
ADAM = 8
PACKED = 9 / 16
"""Bytes of a weight in NVFP4, block scales included."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Bytes of one GPU.

    Attributes:
        fixed: by what takes them, whatever the batch.
        each: by part of a step, for each video of the GPU's batch; the largest counts.
    """

    fixed: dict[str, float]
    each: dict[str, float]

    def batch(self, gigabytes: float) -> int:
        """How many videos fit at once; 0 if not one does."""
        left = USED * GB * gigabytes - sum(self.fixed.values())
        return max(0, int(left // max(self.each.values())))


def what_fits(config: Distill) -> str:
    """A table of how many videos a step may have, by number and memory of GPUs, as YAML comments.

    Below it is what takes the memory of one GPU.
    """
    head = "# GPUs" + "".join(f"{f'{size} GB':>14}" for size in SIZES)
    rows = [f"# {gpus:>4}" + "".join(_cell(config, gpus, s) for s in SIZES) for gpus in GPUS]
    needs = needs_of(config, 1)
    parts = [f"#   {bytes_ / GB:8.1f} GB  {name}" for name, bytes_ in needs.fixed.items()]
    parts += [
        f"#   {bytes_ / GB:8.1f} GB  {name}, for each video" for name, bytes_ in needs.each.items()
    ]
    return "\n".join(
        (
            f"# predicted: videos of {_blocks(config)} blocks at once, by GPUs and their memory",
            head,
            *rows,
            "# one GPU holds, of these the largest for each video:",
            *parts,
        )
    )


def needs_of(config: Distill, gpus: int) -> Needs:
    """What each of so many GPUs needs. Raises ValueError for what is no kind of distillation."""
    if isinstance(config, DistillDMD):
        return _needs_of_dmd(config)
    if isinstance(config, DistillCM):
        return _needs_of_cm(config, gpus)
    raise ValueError(f"there is no prediction for {type(config).__name__}.")


def adapter_parameters(config: DistillDMD) -> int:
    """The parameters of one adapter; the model is built on the meta device."""
    with unfilled():
        model = WanTransformer(config.model)
        add_lora(model, config.lora)
    return sum(
        part.weight.numel() for _, layer in adapters(model) for part in (layer.lora_A, layer.lora_B)
    )


def _needs_of_dmd(config: DistillDMD) -> Needs:
    """Every rank holds all weights, so that more GPUs make more videos, not larger ones."""
    model, weights = config.model, config.model.parameters
    if config.lora_rank:
        trained = adapter_parameters(config)
        linears = model.num_layers * (8 * model.dim**2 + 2 * model.dim * model.ffn_dim)
        packed = PACKED * linears + WIDE * (weights - linears)
        base = {"fp32": WIDE * weights, "bf16": NARROW * weights, "nvfp4": packed}[config.base]
        name = f"the base in {config.base}, held once for student, critic and teacher"
        if not config.one_base:
            base *= 2
            name = f"the student's base, and that of critic and teacher, in {config.base}"
    else:
        trained, base, name = weights, float(WIDE * weights), "the teacher in float32"
    copy = {"the student in bfloat16, which makes the critic's videos": float(NARROW * weights)}
    held = WIDE + ADAM
    tokens, blocks = tokens_of_a_block(config), config.rollout_blocks
    past = 2 * NARROW * model.dim * model.num_layers * tokens * config.window.pages
    cache = past * config.window.capacity / config.window.pages
    trains = blocks if config.trained_blocks is None else config.trained_blocks
    graph = (1 if config.replay else trains) * (past + _kept(config, tokens))
    copies = 2 if config.scores == "given_past" else 1
    scored = copies * blocks * tokens
    looking = _passing(model, scored) * (2 if config.teacher_guidance.together else 1)
    student = max(cache + graph, looking) if config.replay else cache + graph + looking
    return Needs(
        fixed={
            name: base,
            "student and critic with AdamW's numbers": 2.0 * held * trained,
            "gradients of one of them, and the student's average": 2.0 * WIDE * trained,
            **(copy if QuickStudent.serves(config) else {}),
        },
        each={
            "the student's update": student,
            "the critic's update": max(cache, _kept(config, scored)),
        },
    )


def _needs_of_cm(config: DistillCM, gpus: int) -> Needs:
    """Weights are shared out over the ranks, and gathered layer by layer."""
    weights, model = config.model.parameters, config.model
    tokens = 2 * _blocks(config) * tokens_of_a_block(config)
    twice = 2 if config.teacher_guidance.together else 1
    return Needs(
        fixed={
            "the student with its gradients and AdamW's numbers": (2 * WIDE + ADAM)
            * weights
            / gpus,
            "its averages, and the teacher": 3 * WIDE * weights / gpus,
        },
        each={
            "the targets": twice * _passing(model, tokens),
            "the student's update": _kept(config, tokens),
        },
    )


def _kept(config: Distill, tokens: int) -> float:
    """What a pass with gradients keeps."""
    model = config.model
    layer = NARROW * (24 * model.dim + 4 * model.ffn_dim) * tokens
    if not config.checkpointing:
        return float(model.num_layers * layer)
    return float(NARROW * model.dim * model.num_layers * tokens + layer)


def _passing(model: WanConfig, tokens: int) -> float:
    """What a pass without gradients holds at a time."""
    return float(NARROW * (8 * model.dim + 2 * model.ffn_dim) * tokens)


def _blocks(config: Distill) -> int:
    if isinstance(config, DistillDMD):
        return config.rollout_blocks
    return max(phase.length for phase in config.phases)


def tokens_of_a_block(config: Distill) -> int:
    """Tokens of a block, one copy. The VAE is Wan2.2's where its folder is not here."""
    folder = Path(config.vae)
    is_here = any((part / "config.json").is_file() for part in (folder, folder / "vae"))
    vae = WAN22_VAE
    if config.vae in EMBEDDED or is_here:
        vae = VAEConfig.from_dict(read_config(find_vae(config.vae)))
    how = config.generation
    size = how.height // vae.spatial_stride, how.width // vae.spatial_stride
    return config.model.frames_per_block * config.model.tokens_per_frame(*size)


def _cell(config: Distill, gpus: int, size: int) -> str:
    videos = gpus * needs_of(config, gpus).batch(size)
    return f"{videos or 'nothing':>14}"
