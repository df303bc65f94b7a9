"""Checks of a teacher before anything is drawn: its guidance, its steps, its text encoder."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from longlive_models.checkpoints.folder import load_part
from longlive_models.checkpoints.hub import INDEX
from longlive_models.settings import read_settings
from longlive_recipes.configs.distill import Distill


def check_teacher(config: Distill) -> None:
    """Raise ValueError for a teacher that cannot be guided, or one of few steps itself."""
    settings = read_settings(Path(config.teacher))
    weight = config.teacher_guidance.weight
    if settings.guidance == 1 and weight != 1:
        raise ValueError(
            f"teacher_guidance is {config.teacher_guidance}, and {config.teacher} is run without "
            f"guidance ({Path(config.teacher) / INDEX}): it has never seen an empty prompt to move "
            f"away from. Name a teacher that is run with guidance, or set "
            f"teacher_guidance.scale so that nothing is added."
        )


def check_base(config: Distill, *, same_weights: bool = False) -> None:
    """Raise ValueError for a student of another base than its teacher.

    Args:
        same_weights: the transformer is the teacher's own too, as where it is frozen.
    """
    student, teacher = Path(config.start_from or ""), Path(config.teacher)
    if student.resolve() == teacher.resolve():
        return
    way_out = (
        f"Name a student that was distilled from this teacher (start_from), or the teacher that "
        f"{student} was distilled from (teacher_from)."
    )
    for part in ("transformer", "text_encoder"):
        own, theirs = (load_part(folder / part) for folder in (student, teacher))
        if own[0] != theirs[0]:
            raise ValueError(
                f"the student {student} is of another base than its teacher {teacher}: their "
                f"{part}s have other sizes, and what one makes the other cannot score. {way_out}"
            )
        if part == "text_encoder" and not _same(own[1], theirs[1]):
            raise ValueError(
                f"the student {student} is of another base than its teacher {teacher}: they read "
                f"prompts with other text encoders, and would be asked different things. {way_out}"
            )
    if same_weights:
        raise ValueError(
            f"the student {student} is of another base than its teacher {teacher}, and with "
            f"lora_rank both are adapters on one: set start_from={teacher}, and lora_from for an "
            f"adapter to begin with."
        )


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
