"""The config of autoregressive training, with its checks and presets."""

from dataclasses import dataclass, field, replace

from longlive_core.kv_cache import Window
from longlive_core.nvfp4 import TrainingConfig
from longlive_core.sequence_parallel import BalancedPartition
from longlive_models.block_steps import BlockSteps, check_block_steps
from longlive_models.choices import MOST_GUIDANCE
from longlive_models.settings import GenerationSettings
from longlive_models.text import PocketTextConfig
from longlive_models.wan import POCKET, WanConfig
from longlive_models.wan.recomputation import Checkpointing, check_checkpointing
from longlive_recipes.configs.checked import (
    part_field,
    parts_field,
    real_field,
    text_field,
    whole_field,
)
from longlive_recipes.configs.plain_parts import PlainParts
from longlive_recipes.configs.run import Run
from longlive_recipes.moving_shapes.clips import ClipFormat, vocabulary
from longlive_recipes.moving_shapes.latent_cache import MOST_CLIPS, ClipSet
from longlive_recipes.training.caption_checks import check_captions
from longlive_recipes.training.module import check_seed
from longlive_recipes.training.optimizers import Optimization, OptimizationPlan
from longlive_recipes.training.parallel import Parallel
from longlive_recipes.training.schedule import Phase, TrainingSchedule, check_phases

PLAIN = TrainingConfig(forward=False, input_gradient=False, weight_gradient=False)
"""Linears as they are: none of their products in four bits."""

MOST_OFFSET = float(1 << 24)
MOST_SHIFT = 1000.0


@dataclass(frozen=True, kw_only=True)
class TrainAR:
    """Everything that AR training depends on. Phase lengths are in blocks."""

    model: WanConfig = POCKET
    text: PocketTextConfig = field(default_factory=lambda: PocketTextConfig(vocab=vocabulary()))
    vae: str = "pocket"  # a folder that train_vae wrote, or a model whose VAE is used
    world: ClipFormat = field(default_factory=ClipFormat)
    sets: tuple[ClipSet, ...] = (ClipSet(blocks=2, clips=10_000), ClipSet(blocks=6, clips=3_000))
    phases: tuple[Phase, ...] = (
        Phase(length=2, batch=64, until=0.5),
        Phase(length=6, batch=24, until=1.0),
    )
    window: Window = field(default_factory=Window)
    shot_offset: float = GenerationSettings.shot_offset
    shift: float = GenerationSettings.shift
    prompt_dropout: float = 0.1
    word_dropout: float = 0.02  # words read as unknown, so that a foreign word does little harm
    context_jitter: float = 0.05  # most noise in the clean context, as generated contexts have it
    latent_cache: str | None = None  # keep the encoded clips here
    data: str | None = None  # a cache of one's own clips, in place of sets and drawn clips
    quantized: TrainingConfig = PLAIN  # which products of the transformer's linears are in NVFP4
    plain: PlainParts = field(default_factory=PlainParts)  # linears that are not, all the same
    checkpointing: Checkpointing = False  # recompute blocks, or all of them but "attention"
    parallel: Parallel = field(default_factory=Parallel)
    start_from: str | None = None  # a folder with transformer/ and text_encoder/ to begin with
    validation_clips: int = 32  # of each length, never trained on
    sample_prompts: tuple[str, ...] = (
        "a red circle moves right on a navy background",
        "a yellow star spins on a black background",
        "a green square bounces on a white background",
    )
    sample_seconds: float = 5.0
    sampling_steps: BlockSteps = 8  # of samples, and what the model's index names
    guidance: float = 2.0
    budget: TrainingSchedule = field(
        default_factory=lambda: TrainingSchedule(steps=40_000, minutes=15, warmup_steps=200)
    )
    optimization: Optimization = field(default_factory=Optimization)
    run: Run = field(default_factory=lambda: Run(output="runs/ar_pocket", compile=True))
    seed: int = 0

    def __post_init__(self) -> None:
        self._check_parts()
        self._check_numbers()
        check_phases(self.phases)
        known = {one.blocks for one in self.sets}
        if self.data is not None and self.latent_cache is not None:
            raise ValueError(
                f"latent_cache keeps clips that are drawn, and data={self.data!r} is a cache of "
                f"others: nothing would be drawn. Leave latent_cache out."
            )
        if len(known) < len(self.sets):
            lengths = sorted(one.blocks for one in self.sets)
            raise ValueError(
                f"there is one clip set of each length, got sets of {lengths} blocks: one of two "
                f"would never be drawn from. Put their clips into one."
            )
        for phase in self.phases:
            if self.data is None and phase.length not in known:
                raise ValueError(
                    f"a phase trains on clips of {phase.length} blocks, but the clip sets have "
                    f"{sorted(known)}: add ClipSet(blocks={phase.length}, ...)."
                )
            self.parallel.check_clips("a phase's batch", phase.batch)
        self.parallel.check_clips("validation_clips", self.validation_clips)
        for blocks in self.lengths:
            self.partition(blocks, 1)
        self.parallel.check_compile(self.run.compile)
        if self.quantized.quantizes:
            self.plain.keep(self.model.num_layers)

    def _check_parts(self) -> None:
        for name, kind in (
            ("model", WanConfig),
            ("text", PocketTextConfig),
            ("world", ClipFormat),
            ("window", Window),
            ("quantized", TrainingConfig),
            ("plain", PlainParts),
            ("parallel", Parallel),
            ("budget", TrainingSchedule),
            ("optimization", Optimization),
            ("run", Run),
        ):
            part_field(self, name, kind)
        parts_field(self, "sets", ClipSet)
        parts_field(self, "phases", Phase)
        parts_field(self, "sample_prompts", str)
        text_field(self, "vae")
        text_field(self, "latent_cache", "data", "start_from", optional=True)
        check_checkpointing(f"{type(self).__name__}.checkpointing", self.checkpointing)
        check_seed(self)
        check_captions(self.text, self.sample_prompts, drawn=self.data is None)

    def _check_numbers(self) -> None:
        share = "it is a share of what is drawn, from 0 to 1. Use 0 for none."
        for name in ("prompt_dropout", "word_dropout"):
            real_field(self, name, at_least=0, at_most=1, why=share)
        real_field(
            self,
            "context_jitter",
            at_least=0,
            at_most=1,
            why="it is the most noise that is added to the clean context, as a share of what "
            "latents vary by. Use 0.05, say.",
        )
        real_field(
            self,
            "shot_offset",
            at_least=0,
            at_most=MOST_OFFSET,
            why="a cut adds it to positions, which are float32 and whole up to 2**24. Use 8.",
        )
        real_field(
            self,
            "shift",
            above=0,
            at_most=MOST_SHIFT,
            why="it moves noise levels up, and more would leave one of the thousand. Use 5.",
        )
        real_field(
            self,
            "guidance",
            at_least=0,
            at_most=MOST_GUIDANCE,
            why="it scales the distance from the empty prompt, 1 being the model as trained. Use "
            "2.",
        )
        real_field(
            self,
            "sample_seconds",
            above=0,
            at_most=3600,
            why="samples are held in memory whole, an hour at most. Use 5, say.",
        )
        name = f"{type(self).__name__}.sampling_steps"
        steps = check_block_steps(name, self.sampling_steps)
        object.__setattr__(self, "sampling_steps", steps)
        whole_field(
            self,
            "validation_clips",
            at_least=1,
            at_most=MOST_CLIPS,
            why="the loss is measured on so many clips of each length. Use 32, say.",
        )

    @property
    def plan(self) -> OptimizationPlan:
        """The optimizers and averages of the run."""
        return self.optimization.plan()

    def partition(self, blocks: int, tokens_per_frame: int) -> BalancedPartition:
        """Which sequence rank holds which frames of a clip of ``blocks`` blocks."""
        return BalancedPartition(
            frames=blocks * self.model.frames_per_block,
            ranks=self.parallel.sequence,
            tokens_per_frame=tokens_per_frame,
            frames_per_block=self.model.frames_per_block,
        )

    @property
    def lengths(self) -> set[int]:
        """Blocks of the clips that are trained on: of the sets, or of phases on one's own data."""
        if self.data is None:
            return {one.blocks for one in self.sets}
        return {phase.length for phase in self.phases}

    @property
    def generation(self) -> GenerationSettings:
        """How the trained model is meant to be run."""
        return GenerationSettings(
            height=self.world.size,
            width=self.world.size,
            fps=self.world.fps,
            steps=self.sampling_steps,
            guidance=self.guidance,
            shift=self.shift,
            window=self.window.pages,
            sink=self.window.sink,
            shot_sink=self.window.shot_sink,
            shot_offset=self.shot_offset,
        )


def ar_pocket() -> TrainAR:
    """The pocket model, on the latents of its VAE: one GPU, about twenty minutes."""
    return TrainAR()


def ar_tiny() -> TrainAR:
    """A few steps on a CPU, to see that everything runs."""
    small = replace(POCKET, dim=48, ffn_dim=64, num_heads=2, num_layers=2, text_dim=16)
    return replace(
        ar_pocket(),
        model=small,
        text=PocketTextConfig(vocab=vocabulary(), dim=16, num_layers=1, num_heads=2, ffn_dim=32),
        world=ClipFormat(size=32),
        sets=(ClipSet(blocks=2, clips=3), ClipSet(blocks=3, clips=2)),
        phases=(Phase(length=2, batch=2, until=0.5), Phase(length=3, batch=1, until=1.0)),
        validation_clips=1,
        sample_prompts=("a red circle moves right on a navy background",),
        sample_seconds=1.0,
        sampling_steps=2,
        budget=TrainingSchedule(steps=4, warmup_steps=1),
        run=Run(
            output="runs/ar_tiny",
            accelerator="cpu",
            precision="32-true",
            log_every=1,
            validate_every=4,
        ),
    )
