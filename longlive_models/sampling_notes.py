"""Notes on sampling that a model was not trained for.

Sampler, steps and guidance are the caller's to choose, so none is refused; what a student of
distillation makes of others than its own is said once, in the same words wherever they are chosen.
"""

import warnings

from longlive_models.block_steps import BlockSteps
from longlive_models.settings import GenerationSettings


class SamplingWarning(UserWarning):
    """The warning that a model samples in another way than it was trained to."""


def sampling_notes(
    own: GenerationSettings, chosen: GenerationSettings, *, adapted: bool
) -> tuple[str, ...]:
    """What is to be said of sampling that the model was not trained for, a sentence or two each.

    Args:
        own: the model's own settings.
        chosen: those of a video.
        adapted: whether adapters are merged into the model: of a student they may make another
            model, so nothing is said of it.
    """
    if own.sampler == "few_step":
        return () if adapted else _of_student(own, chosen)
    if chosen.sampler != "few_step":
        return ()
    return (
        f"the sampler few_step is for students of distillation, and this model is none (its own "
        f"sampler is {own.sampler}): at each step it takes the model's guess of the whole way for "
        f"the answer, which is blurred unless the model has learnt that. Leave the sampler out, or "
        f"distill the model.",
    )


def warn_of_sampling(own: GenerationSettings, chosen: GenerationSettings, *, adapted: bool) -> None:
    """Warn of ``sampling_notes``, with a ``SamplingWarning`` each."""
    for note in sampling_notes(own, chosen, adapted=adapted):
        warnings.warn(note, SamplingWarning, stacklevel=3)


def _of_student(own: GenerationSettings, chosen: GenerationSettings) -> tuple[str, ...]:
    """What is to be said of a student that does not sample as it was trained to."""
    changes = []
    if chosen.sampler != own.sampler:
        changes.append(f"the sampler {chosen.sampler} goes from step to step in another way")
    if min(_numbers(chosen.steps)) < min(_numbers(own.steps)):
        changes.append("fewer steps make coarser shapes")
    if max(_numbers(chosen.steps)) > max(_numbers(own.steps)):
        changes.append("more steps take longer and need not look better")
    if chosen.guidance != own.guidance:
        changes.append(
            f"guidance {chosen.guidance:g} runs the model {chosen.branches} times a step "
            f"in place of {own.branches}"
        )
    if not changes:
        return ()
    steps = ",".join(map(str, _numbers(own.steps)))
    return (
        f"the model is a student of distillation, trained for sampler {own.sampler}, steps {steps} "
        f"and guidance {own.guidance:g}: {', '.join(changes)}. Leave sampler, steps and guidance "
        f"out for the video that it was trained to make.",
    )


def _numbers(steps: BlockSteps) -> tuple[int, ...]:
    return (steps,) if isinstance(steps, int) else steps
