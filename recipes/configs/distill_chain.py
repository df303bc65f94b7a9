"""What the whole chain depends on: the configs of its stages, and how the last model is packed."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TypeVar

from longlive_core.checks import shown
from longlive_recipes.configs.checked import part_field, parts_field, text_field
from longlive_recipes.configs.distill_cm import DistillCM, cm_pocket, cm_tiny
from longlive_recipes.configs.distill_dmd import DistillDMD, dmd_pocket, dmd_tiny
from longlive_recipes.configs.judge import Judged
from longlive_recipes.configs.quantize_weights import check_rule
from longlive_recipes.configs.train_ar import (
    TrainAR,
    ar_pocket,
    ar_pocket_long,
    ar_pocket_spins,
    ar_tiny,
)

OF_A_MODEL = ("model", "text", "vae", "world", "width", "window", "shot_offset", "sample_prompts")
"""Fields that all stages of the teacher have from the first one."""

SHARED = (*OF_A_MODEL, "shift", "seed")
"""Fields that later stages have from the teacher's, so that all are of one model and its clips."""

MORE = ("longer", "spins")
"""The stages in which the teacher is trained on, each of which may be left out."""

Stage = TypeVar("Stage", DistillCM, DistillDMD)


@dataclass(frozen=True, kw_only=True)
class DistillChain:
    """Autoregressive training, consistency, distribution matching, and packing in four bits.

    Each stage's ``run.output`` is a folder of ``output``, its input is the one before. What a model
    is made of (its sizes, VAE, window, clips' world) is that of ``ar``; both distillations have
    shift, clips and seed too from the teacher's last stage: ``spins``, ``longer`` or ``ar``. Clips
    of one's own (``ar.data``) are those of all stages.
    """

    output: str = "runs/pocket_chain"
    ar: TrainAR = field(default_factory=ar_pocket)
    longer: TrainAR | None = field(default_factory=ar_pocket_long)  # the teacher, trained on
    spins: TrainAR | None = field(default_factory=ar_pocket_spins)  # and on
    cm: DistillCM = field(default_factory=cm_pocket)
    dmd: DistillDMD = field(default_factory=dmd_pocket)
    rule: str = "four_over_six_mse"  # of the packed weights
    pack: tuple[str, ...] = ("time_projection",)  # packed beside the linears of blocks

    def __post_init__(self) -> None:
        text_field(self, "output")
        for name, kind in (("ar", TrainAR), ("cm", DistillCM), ("dmd", DistillDMD)):
            part_field(self, name, kind)
        for name in MORE:
            if vars(self)[name] is not None:
                part_field(self, name, TrainAR)
        parts_field(self, "pack", str)
        check_rule(self.rule)
        for name in self.names:
            if (ranks := vars(self)[name].parallel.ranks) > 1:
                raise ValueError(
                    f"a chain runs on one rank, got {name}.parallel of {ranks}: its stages start "
                    f"one after the other in one process. Train the stages by themselves, or leave "
                    f"parallel out."
                )
        for name, stage in zip(self.names, self.stages, strict=True):
            _refuse_replaced(name, vars(self)[name], stage)

    @property
    def names(self) -> tuple[str, ...]:
        """The stages' names, in order."""
        return tuple(name for name in ("ar", *MORE, "cm", "dmd") if vars(self)[name] is not None)

    @property
    def teachers(self) -> tuple[TrainAR, ...]:
        """The configs of the stages that train the teacher, one to three."""
        made = [self._drawn(self.ar, "ar")]
        same = {name: vars(made[0])[name] for name in (*OF_A_MODEL, "data")}
        for name in MORE:
            stage: TrainAR | None = vars(self)[name]
            if stage is not None:
                stage = replace(stage, start_from=model_of(made[-1]), **same)
                made.append(self._drawn(stage, name))
        return tuple(made)

    @property
    def students(self) -> tuple[DistillCM, DistillDMD]:
        """The configs of both distillations."""
        last = self.teachers[-1]
        cm = self._after(last, self.cm, "cm")
        dmd = self._after(last, self.dmd, "dmd")
        return (
            replace(cm, start_from=model_of(last)),
            replace(dmd, start_from=model_of(cm), teacher_from=model_of(last)),
        )

    @property
    def stages(self) -> tuple[TrainAR, ...]:
        """The configs of all stages, with folders and what they share filled in."""
        return (*self.teachers, *self.students)

    def _drawn(self, stage: TrainAR, name: str) -> TrainAR:
        """A teacher's stage with its folder, and a cache for the clips that it draws."""
        folder = self.folder(name)
        cache = None if stage.data else str(Path(folder) / "latents")
        return replace(stage, latent_cache=cache, run=replace(stage.run, output=folder))

    def folder(self, name: str) -> str:
        """The folder of a stage."""
        return str(Path(self.output) / name)

    def _after(self, last: TrainAR, stage: Stage, name: str) -> Stage:
        """A stage with what it has from the teacher's, the clips of its lengths among it."""
        known = {one.blocks: one for one in last.sets}
        lengths = [one.blocks for one in stage.sets]
        same = {name: vars(last)[name] for name in SHARED}
        judged = stage.judged
        if last.data is not None and judged != Judged():  # nothing is judged on one's own clips
            judged = replace(judged, videos=0)
        shared = replace(
            stage,
            sets=tuple(known.get(one.blocks, one) for one in stage.sets if one.blocks in lengths),
            data=last.data,
            judged=judged,
            latent_cache=last.latent_cache,
            run=replace(stage.run, output=self.folder(name)),
        )
        return replace(shared, **same)


def tiny_longer() -> TrainAR:
    """The second stage of ``tiny_chain``."""
    return replace(ar_tiny(), start_from="runs/ar_tiny/model", seed=1)


KNOWN: dict[str, tuple[Callable[[], TrainAR], ...]] = {
    "ar": (ar_pocket, ar_tiny),
    "longer": (ar_pocket_long, tiny_longer),
    "spins": (ar_pocket_spins,),
    "cm": (cm_pocket, cm_tiny),
    "dmd": (dmd_pocket, dmd_tiny),
}
"""The presets of each stage, whose values ask for nothing."""


def _refuse_replaced(name: str, given: TrainAR, used: TrainAR) -> None:
    """Raise ValueError for a field of a stage that was set, and that the chain replaces."""
    usual = [make() for make in KNOWN[name]]
    for one_field in fields(given):
        value, taken = vars(given)[one_field.name], vars(used)[one_field.name]
        told, known = one_field.name, [vars(one)[one_field.name] for one in usual]
        if one_field.name == "run":
            told, value, taken = "run.output", value.output, taken.output
            known = [one.output for one in known]
        if value != taken and value not in known:
            raise ValueError(
                f"DistillChain.{name}.{told}={shown(value)} changes nothing: the chain gives its "
                f"stage {shown(taken)}, so that all stages are of one model, its clips and its "
                f"folder. Set it in ar, or as output; or leave it out."
            )


def pocket_chain() -> DistillChain:
    """The pocket model from drawn clips to a packed student of four steps: under an hour."""
    return DistillChain()


def tiny_chain() -> DistillChain:
    """All stages in a few steps on a CPU, to see that everything runs."""
    return DistillChain(
        output="runs/tiny_chain",
        ar=ar_tiny(),
        longer=tiny_longer(),
        spins=None,
        cm=cm_tiny(),
        dmd=dmd_tiny(),
    )


def model_of(stage: TrainAR) -> str:
    """The folder of the model that a stage leaves."""
    return str(Path(stage.run.output) / "model")
