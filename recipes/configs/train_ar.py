"""The config of autoregressive training, with its checks and presets."""

from dataclasses import dataclass, field, replace
from typing import Literal

from longlive_core.float8 import Float8TrainingConfig
from longlive_core.kv_cache import Window
from longlive_core.nvfp4 import TrainingConfig
from longlive_core.sequence_parallel import BalancedPartition
from longlive_models.block_steps import BlockSteps
from longlive_models.diffusion import FlowSchedule
from longlive_models.objectives.error_recycling import ErrorRecycling
from longlive_models.settings import GenerationSettings
from longlive_models.text import UMT5_XXL, PocketTextConfig, UMT5Config
from longlive_models.wan import POCKET, WAN_5B, WanConfig
from longlive_models.wan.recomputation import Checkpointing, check_checkpointing
from longlive_recipes.configs.ar_numbers import check_numbers
from longlive_recipes.configs.ar_options import (
    NO_ERRORS,
    PLAIN,
    PLAIN_8,
    Adapter,
    check_products,
    check_recycling,
    refuse_idle_products,
)
from longlive_recipes.configs.checked import (
    part_field,
    parts_field,
    text_field,
)
from longlive_recipes.configs.idle_fields import refuse_idle
from longlive_recipes.configs.plain_parts import PlainParts
from longlive_recipes.configs.run import Run
from longlive_recipes.moving_shapes.attributes import MOTIONS
from longlive_recipes.moving_shapes.clips import ClipFormat, vocabulary
from longlive_recipes.moving_shapes.latent_cache import ClipSet
from longlive_recipes.training.caption_checks import check_captions
from longlive_recipes.training.module import check_seed
from longlive_recipes.training.optimizers import Optimization, OptimizationPlan
from longlive_recipes.training.parallel import Parallel
from longlive_recipes.training.schedule import Phase, TrainingSchedule, check_phases


@dataclass(frozen=True, kw_only=True)
class TrainAR:
    """Everything that AR training depends on. Phase lengths are in blocks."""

    model: WanConfig = POCKET
    text: PocketTextConfig | UMT5Config = field(
        default_factory=lambda: PocketTextConfig(vocab=vocabulary())
    )  # the latter is frozen: the cache of clips has its features
    vae: str = "pocket"  # a folder that train_vae wrote, or a model whose VAE is used
    world: ClipFormat = field(default_factory=ClipFormat)
    width: int | None = None  # of the pictures of one's own clips; None: as wide as high
    sets: tuple[ClipSet, ...] = (ClipSet(blocks=2, clips=16_000), ClipSet(blocks=6, clips=5_000))
    phases: tuple[Phase, ...] = (
        Phase(length=2, batch=64, until=0.4),
        Phase(length=6, batch=24, until=1.0),
    )
    window: Window = field(default_factory=Window)
    shot_offset: float = GenerationSettings.shot_offset
    shift: float = 3.0  # of the published model 5: the pocket's frames have few tokens
    weighting: Literal["bell", "uniform"] = "bell"  # of noise levels in the loss
    prompt_dropout: float = 0.1
    word_dropout: float = 0.02  # words read as unknown, so that a foreign word does little harm
    context_jitter: float = 0.05  # most noise in the clean context, as generated contexts have it
    recycling: ErrorRecycling = NO_ERRORS  # the model's own errors, added to what it learns from
    image_to_video: float = 0.0  # the share of clips whose first latent frame is given
    least_blocks: int = 0  # shorter clips of one's own, from so many blocks on, are filled up
    accumulate: int = 1  # parts that a batch is taken in, whose gradients are added up
    adapter: Adapter = field(default_factory=Adapter)  # LoRA, in place of all weights
    latent_cache: str | None = None  # keep the encoded clips here
    data: str | None = None  # a cache of one's own clips, in place of sets and drawn clips
    quantized: TrainingConfig = PLAIN  # which products of the transformer's linears are in NVFP4
    float8: Float8TrainingConfig = PLAIN_8  # which of them are in FP8 instead
    plain: PlainParts = field(default_factory=PlainParts)  # linears that are not, all the same
    checkpointing: Checkpointing = False  # recompute blocks, or all of them but "attention"
    parallel: Parallel = field(default_factory=Parallel)
    start_from: str | None = None  # a folder with transformer/ and text_encoder/ to begin with
    validation_clips: int = 32  # of each length, never trained on; none where a judge validates
    sample_prompts: tuple[str, ...] = (
        "a red circle moves right on a navy background",
        "a yellow star spins on a black background",
        "a green square bounces on a white background",
    )
    sample_seconds: float = 5.0
    sampling_steps: BlockSteps = 8  # of samples, and what the model's index names
    guidance: float = 2.0
    budget: TrainingSchedule = field(
        default_factory=lambda: TrainingSchedule(steps=40_000, minutes=13, warmup_steps=100)
    )
    optimization: Optimization = Optimization(muon=("model.blocks.*.weight",))
    run: Run = field(default_factory=lambda: Run(output="runs/ar_pocket", compile=True))
    seed: int = 0

    def __post_init__(self) -> None:
        self._check_parts()
        check_numbers(self)
        check_phases(self.phases)
        known = {one.blocks for one in self.sets}
        if self.least_blocks and self.data is None and known:
            raise ValueError(
                f"least_blocks={self.least_blocks} fills up clips of one's own, and drawn clips "
                f"are as long as they are asked for. Name the cache (--data), or leave it out."
            )
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
            if self.data is None and known and phase.length not in known:
                raise ValueError(
                    f"a phase trains on clips of {phase.length} blocks, but the clip sets have "
                    f"{sorted(known)}: add ClipSet(blocks={phase.length}, ...)."
                )
            self.parallel.check_clips("a phase's batch", phase.batch)
            if phase.batch // self.parallel.data % self.accumulate:
                raise ValueError(
                    f"accumulate={self.accumulate} does not divide the {phase.batch} clips of a "
                    f"phase's batch over parallel.data={self.parallel.data} ranks: its parts have "
                    f"as many clips each. Make the batch a multiple of both."
                )
        self.parallel.check_clips("validation_clips", self.validation_clips)
        for blocks in self.lengths:
            self.partition(blocks, 1)
        self.parallel.check_compile(self.run.compile)
        if self.in_few_bits:
            self.plain.keep(self.model.num_layers)
        check_products(self.quantized, self.float8, frozen=self.adapter.rank > 0)
        self._refuse_idle()
        self._check_adapter()

    def _refuse_idle(self) -> None:
        refuse_idle_products(self)
        if not self.recycling.recycles:
            refuse_idle(
                self,
                "recycling",
                NO_ERRORS,
                because="with context, start and noise of 0 no errors are kept or added",
                way_out="Set one of the three",
            )
        if isinstance(self.text, UMT5Config):
            refuse_idle(
                self,
                "word_dropout",
                TrainAR.word_dropout,
                0,
                because="the text encoder is frozen, and features are of whole prompts",
            )

    def _check_adapter(self) -> None:
        if self.adapter.rank and self.start_from is None:
            raise ValueError(
                f"adapter.rank={self.adapter.rank} trains adapters beside a model that is frozen, "
                f"and start_from names none. Use start_from=pocket, say."
            )

    def _check_parts(self) -> None:
        for name, kind in (
            ("model", WanConfig),
            ("world", ClipFormat),
            ("window", Window),
            ("recycling", ErrorRecycling),
            ("adapter", Adapter),
            ("quantized", TrainingConfig),
            ("float8", Float8TrainingConfig),
            ("plain", PlainParts),
            ("parallel", Parallel),
            ("budget", TrainingSchedule),
            ("optimization", Optimization),
            ("run", Run),
        ):
            part_field(self, name, kind)
        part_field(self, "text", PocketTextConfig, UMT5Config)
        parts_field(self, "sets", ClipSet)
        parts_field(self, "phases", Phase)
        parts_field(self, "sample_prompts", str)
        text_field(self, "vae")
        text_field(self, "latent_cache", "data", "start_from", optional=True)
        check_checkpointing(f"{type(self).__name__}.checkpointing", self.checkpointing)
        check_seed(self)
        check_recycling(self.recycling, FlowSchedule.levels)
        if isinstance(self.text, PocketTextConfig):
            drawn = self.data is None and bool(self.sets)
            check_captions(self.text, self.sample_prompts, drawn=drawn)
        elif self.sets and self.data is None:
            raise ValueError(
                "sets are clips that are drawn, with captions that a text encoder learns to read, "
                "and this text encoder is frozen: its features are kept beside clips of one's own. "
                "Name a cache (--data)."
            )

    @property
    def plan(self) -> OptimizationPlan:
        """The optimizers and averages of the run."""
        plan = self.optimization.plan()
        if self.accumulate == 1 and not self.adapter.rank:
            return plan
        manual = True if self.accumulate > 1 else None  # the module itself makes an update of parts
        return replace(plan, manual=manual, store_frozen=not self.adapter.rank)

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
        if self.data is None and self.sets:
            return {one.blocks for one in self.sets}
        return {phase.length for phase in self.phases}

    @property
    def learns_from_clips(self) -> bool:
        """Whether a step looks at clips' latents, and not at their prompts and cuts alone."""
        return True

    @property
    def validates_on_clips(self) -> bool:
        """Whether a validation is a loss on clips."""
        return True

    @property
    def in_few_bits(self) -> bool:
        """Whether linears of the transformer have products in four or in eight bits."""
        return self.quantized.quantizes or self.float8.quantizes

    @property
    def learns_words(self) -> bool:
        """Whether the text encoder is trained, and so can learn words."""
        return isinstance(self.text, PocketTextConfig) and not self.adapter.rank

    @property
    def generation(self) -> GenerationSettings:
        """How the trained model is meant to be run."""
        return GenerationSettings(
            height=self.world.size,
            width=self.world.size if self.width is None else self.width,
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


def ar_pocket_long() -> TrainAR:
    """The pocket model trained on after ar_pocket: other clips, most of them turning ones."""
    often = (*MOTIONS, "spins", "spins", "spins", "spins", "bounces", "bounces", "orbits")
    return replace(
        ar_pocket(),
        start_from="runs/ar_pocket/model",
        sets=(
            ClipSet(blocks=2, clips=16_000, motions=often),
            ClipSet(blocks=6, clips=5_000, motions=often),
        ),
        shift=6.0,  # what turns how is decided at noise above 0.8, where 3 trains little
        recycling=ErrorRecycling(context=0.5, start=0.0, noise=0.0),
        budget=TrainingSchedule(steps=40_000, minutes=12, warmup_steps=200),
        optimization=Optimization(
            learning_rate=6e-4, muon=("model.blocks.*.weight",), muon_rate=2e-3
        ),
        run=Run(output="runs/ar_pocket_long", compile=True),
        seed=1,
    )


def ar_pocket_spins() -> TrainAR:
    """The pocket model trained on after ar_pocket_long: all noise alike, spins in half of clips."""
    longer = ar_pocket_long()
    often = (*MOTIONS, *["spins"] * 7, "bounces", "orbits")
    return replace(
        longer,
        start_from="runs/ar_pocket_long/model",
        sets=tuple(replace(one, motions=often) for one in longer.sets),
        phases=tuple(
            replace(phase, until=until)
            for phase, until in zip(longer.phases, (0.5, 1.0), strict=True)
        ),
        weighting="uniform",  # outlines that spin go wrong at noise above 0.8
        budget=TrainingSchedule(steps=40_000, minutes=9.5, warmup_steps=200),
        run=Run(output="runs/ar_pocket_spins", compile=True),
        seed=2,
    )


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


def ar_lora() -> TrainAR:
    """Adapters for clips of one's own beside a frozen model: one GPU, or a CPU."""
    return replace(
        ar_pocket(),
        start_from="pocket",
        adapter=Adapter(rank=32, alpha=32.0),
        sets=(),
        phases=(Phase(length=2, batch=16, until=1.0),),
        least_blocks=1,
        word_dropout=0.0,
        validation_clips=4,
        budget=TrainingSchedule(steps=1_000, warmup_steps=50),
        optimization=Optimization(learning_rate=5e-4, weight_decay=0.0, ema_decay=0.99),
        run=Run(output="runs/ar_lora", validate_every=250),
    )


def ar_5b() -> TrainAR:
    """The published 5B on clips of one's own, 704x1280: two groups of four GPUs."""
    return TrainAR(
        model=WAN_5B,
        text=UMT5_XXL,
        vae="LongLive-2.0-5B",
        start_from="LongLive-2.0-5B",
        world=ClipFormat(size=704, fps=24.0),
        width=1280,
        shift=GenerationSettings.shift,
        sets=(),
        phases=(Phase(length=12, batch=2, until=1.0),),  # 96 latent frames; 48 blocks are 384
        recycling=ErrorRecycling(),
        prompt_dropout=0.1,
        word_dropout=0.0,
        context_jitter=0.0,
        checkpointing="attention",
        parallel=Parallel(data=2, sequence=4),
        validation_clips=2,
        sample_prompts=(),
        sampling_steps=50,
        guidance=3.0,
        budget=TrainingSchedule(steps=600, warmup_steps=0, final_rate=1.0),
        optimization=Optimization(
            learning_rate=1e-5,
            betas=(0.0, 0.999),
            weight_decay=0.0,
            max_grad_norm=10.0,
            ema_decay=0.99,
        ),
        run=Run(
            output="runs/ar_5b",
            log_every=1,
            validate_every=100,
            samples_every=0,
            checkpoint_minutes=15.0,
        ),
    )
