"""Checks of a teacher and a student's beginnings before anything is drawn."""

from collections.abc import Mapping

import torch
from torch import Tensor

from longlive_models.checkpoints.folder import load_part, unfilled
from longlive_models.checkpoints.hub import INDEX, is_published
from longlive_models.lora import load_lora
from longlive_models.settings import read_settings
from longlive_models.wan import WanTransformer
from longlive_recipes.configs.distill import Distill
from longlive_recipes.configs.distill_dmd import DistillDMD
from longlive_recipes.distillation.adapters import LORA
from longlive_recipes.training.ar_results import result_of
from longlive_recipes.training.run_checks import check_not_replaced
from longlive_recipes.training.start import TEXT, find_start, sizes_of


def check_teacher(config: Distill) -> None:
    """Raise ValueError for a teacher that cannot be guided, or whose noise levels are others."""
    folder = find_start(config.teacher)
    if is_published(folder):
        return
    settings = read_settings(folder)
    weight = config.teacher_guidance.weight
    if settings.guidance == 1 and weight != 1:
        raise ValueError(
            f"teacher_guidance is {config.teacher_guidance}, and {config.teacher} is run without "
            f"guidance ({folder / INDEX}): it has never seen an empty prompt to move "
            f"away from. Name a teacher that is run with guidance, or set "
            f"teacher_guidance.scale so that nothing is added."
        )
    if settings.shift != config.shift:
        raise ValueError(
            f"shift={config.shift:g}, and {config.teacher} has {settings.shift:g} "
            f"({folder / INDEX}): the student would be run at noise levels that its teacher was "
            f"hardly trained at. Use shift={settings.shift:g}."
        )


def check_base(config: Distill) -> None:
    """Raise ValueError for a student of another base than its teacher."""
    student, teacher = find_start(config.start_from or ""), find_start(config.teacher)
    if student.resolve() == teacher.resolve() or is_published(student) or is_published(teacher):
        return
    way_out = (
        f"Name a student that was distilled from this teacher (start_from), or the teacher that "
        f"{student} was distilled from (teacher_from)."
    )
    begins = f"the student {student} is of another base than its teacher {teacher}"
    if sizes_of(str(student)) != sizes_of(str(teacher)):
        raise ValueError(
            f"{begins}: their transformers or text encoders have other sizes, and what one makes "
            f"the other cannot score. {way_out}"
        )
    own, theirs = (load_part(folder / TEXT)[1] for folder in (student, teacher))
    if not _same(own, theirs):
        raise ValueError(
            f"{begins}: they read prompts with other text encoders, and would be asked different "
            f"things. {way_out}"
        )


def check_student(config: DistillDMD) -> None:
    """Raise ValueError for a student of another base, or an adapter of another model or rank."""
    check_base(config)
    if config.lora_from is None:
        return
    with unfilled():
        model = WanTransformer(config.model)
    found, wanted = load_lora(model, config.lora_from, config=config.lora), config.lora
    if found != wanted:
        raise ValueError(
            f"lora_from={config.lora_from!r} is an adapter of rank {found.rank} and alpha "
            f"{found.alpha:g} beside {', '.join(found.targets)}, and the run trains some of rank "
            f"{wanted.rank} and alpha {wanted.alpha:g} beside {', '.join(wanted.targets)}: one "
            f"cannot go on as the other. Use lora_rank={found.rank}, lora_alpha={found.alpha:g} "
            f"and lora_targets={','.join(found.targets)}."
        )


def check_written(config: DistillDMD) -> None:
    """Raise ValueError where what the run writes would replace a model or an adapter it reads."""
    written = [result_of(config)]
    if config.lora_rank:
        written.append(written[0].with_name(LORA))
    for folder in written:
        check_not_replaced(
            folder,
            teacher_from=config.teacher_from,
            start_from=config.start_from,
            lora_from=config.lora_from,
        )


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
