"""Comparing the names and shapes of a file with those that a model has: what differs, and why."""

import re
from collections import Counter
from collections.abc import Mapping

from longlive_core.names import few

Shapes = Mapping[str, tuple[int, ...]]

_SHOWN = 6


def require_fit(given: Shapes, own: Shapes, source: object, model: str) -> None:
    """Raise ValueError unless the names and shapes of a file are those of the model.

    Args:
        given: the shapes in the file, by the model's names.
        own: the shapes of the model.
        source: the file, for the message.
        model: the model's class.
    """
    missing = [name for name in own if name not in given]
    unexpected = [name for name in given if name not in own]
    misshapen = [
        (name, given[name], own[name])
        for name in own
        if name in given and tuple(given[name]) != tuple(own[name])
    ]
    if not (missing or unexpected or misshapen):
        return
    listed = []
    if missing:
        listed.append(f"{len(missing)} missing: {_grouped(missing)}")
    if unexpected:
        listed.append(f"{len(unexpected)} unexpected: {_grouped(unexpected)}")
    if misshapen:
        shown = [f"{name} {list(was)} for {list(is_)}" for name, was, is_ in misshapen]
        listed.append(f"{len(misshapen)} of wrong shapes: {few(shown, 3)}")
    raise ValueError(
        f"{source} does not hold the weights of this {model} ({'; '.join(listed)}): "
        f"{_reason(missing, unexpected, [name for name, _, _ in misshapen], own)}."
    )


def _grouped(names: list[str]) -> str:
    """Names with ``*`` for numbers of blocks, each with how often it stands."""
    groups = Counter(re.sub(r"(?<=blocks\.)\d+", "*", name) for name in names)
    return few([name if n == 1 else f"{name} ({n} times)" for name, n in groups.items()], _SHOWN)


def _reason(missing: list[str], unexpected: list[str], misshapen: list[str], own: Shapes) -> str:
    """The likely reason of a difference, and the way out."""
    if missing and len(missing) == len(own):
        return "it is of another model, or saved under other names. Take the model's own file"
    if missing and not unexpected and not misshapen:
        blocks = {name.split(".")[1] for name in missing if name.startswith("blocks.")}
        whole = {name.split(".")[1] for name in own if name.startswith("blocks.")}
        if blocks and blocks < whole and all(name.startswith("blocks.") for name in missing):
            return (
                "whole blocks lack, so a part of the file or a shard is not there. Fetch it again"
            )
        if all(name.endswith(".bias") for name in missing):
            return "biases were left out when it was saved. Save the whole state dict"
        return "it was saved in part, as adapters or trained weights alone. Save the whole model"
    if unexpected and not missing and not misshapen:
        return "it holds more than this model, as controls or a second model. Take them out"
    if misshapen and not missing and not unexpected:
        return "it is a model of the same family in another size. Take config and weights together"
    return "config and weights come from different models. Take both from one place"
