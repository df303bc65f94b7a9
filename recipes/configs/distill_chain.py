"""What the whole chain depends on: the configs of its stages, and how the last model is packed."""

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TypeVar

from longlive_recipes.configs.checked import part_field, parts_field, text_field
from longlive_recipes.configs.distill_cm import DistillCM, cm_pocket, cm_tiny
from longlive_recipes.configs.distill_dmd import DistillDMD, dmd_pocket, dmd_tiny
from longlive_recipes.configs.quantize_weights import check_rule
from longlive_recipes.configs.train_ar import TrainAR, ar_pocket, ar_tiny

SHARED = (
    "model",
    "text",
    "vae",
    "world",
    "window",
    "shot_offset",
    "shift",
    "sample_prompts",
    "seed",
)
"""Fields that all stages have from the first one, so that they are of one model and its clips."""

Stage = TypeVar("Stage", DistillCM, DistillDMD)


@dataclass(frozen=True, kw_only=True)
class DistillChain:
    """Autoregressive training, consistency, distribution matching, and packing in four bits.

    Each stage's ``run.output`` is a folder of ``output``, its input is the one before, and what a
    model is made of (its sizes, VAE, window, clips' world and seed) is that of ``ar``.
    """

    output: str = "runs/pocket_chain"
    ar: TrainAR = field(default_factory=ar_pocket)
    cm: DistillCM = field(default_factory=cm_pocket)
    dmd: DistillDMD = field(default_factory=dmd_pocket)
    rule: str = "four_over_six_mse"  # of the packed weights
    pack: tuple[str, ...] = ("time_projection",)  # packed beside the linears of blocks

    def __post_init__(self) -> None:
        text_field(self, "output")
        for name, kind in (("ar", TrainAR), ("cm", DistillCM), ("dmd", DistillDMD)):
            part_field(self, name, kind)
        parts_field(self, "pack", str)
        check_rule(self.rule)
        spread = {name: vars(self)[name].parallel.ranks for name in ("ar", "cm", "dmd")}
        for name, ranks in spread.items():
            if ranks > 1:
                raise ValueError(
                    f"a chain runs on one rank, got {name}.parallel of {ranks}: its stages start "
                    f"one after the other in one process. Train the stages by themselves, or leave "
                    f"parallel out."
                )

    @property
    def stages(self) -> tuple[TrainAR, DistillCM, DistillDMD]:
        """The stages' configs, with folders and what they share filled in."""
        first = replace(
            self.ar,
            latent_cache=None if self.ar.data else str(Path(self.output) / "latents"),
            run=replace(self.ar.run, output=self.folder("ar")),
        )
        cm = self._after(first, self.cm, "cm")
        dmd = self._after(first, self.dmd, "dmd")
        teacher = str(Path(first.run.output) / "model")
        student = teacher if dmd.lora_rank else str(Path(cm.run.output) / "model")
        return (
            first,
            replace(cm, start_from=teacher),
            replace(dmd, start_from=student, teacher_from=teacher),
        )

    def folder(self, name: str) -> str:
        """The folder of a stage."""
        return str(Path(self.output) / name)

    def _after(self, first: TrainAR, stage: Stage, name: str) -> Stage:
        """A stage with what it has from the first one, the clips of its lengths among it."""
        known = {one.blocks: one for one in first.sets}
        lengths = [one.blocks for one in stage.sets]
        same = {one.name: vars(first)[one.name] for one in fields(first) if one.name in SHARED}
        shared = replace(
            stage,
            sets=tuple(known.get(one.blocks, one) for one in stage.sets if one.blocks in lengths),
            data=first.data,
            latent_cache=first.latent_cache,
            run=replace(stage.run, output=self.folder(name)),
        )
        return replace(shared, **same)


def pocket_chain() -> DistillChain:
    """The pocket model from drawn clips to a packed student of four steps: under an hour."""
    return DistillChain()


def tiny_chain() -> DistillChain:
    """All stages in a few steps on a CPU, to see that everything runs."""
    return DistillChain(output="runs/tiny_chain", ar=ar_tiny(), cm=cm_tiny(), dmd=dmd_tiny())
