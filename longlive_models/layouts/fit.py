"""Comparing the names and shapes of a file with those that a model has: what differs, and why."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from longlive_core.names import few

Shapes = Mapping[str, tuple[int, ...]]

_SHOWN = 6

_NUMBERS = re.compile(r"(?<=blocks\.)\d+|(?<=samples\.)\d+|(?<=block\.)\d+|(?<=layers\.)\d+")
"""The numbers of blocks and stages in names."""

_EXTRAS = (
    (
        r"^img_emb\.|(?:k|v|norm_k)_img\b",
        "they are of the image branch of Wan2.1's image-to-video models",
    ),
    (r"vace_", "they are of VACE's context blocks"),
    (r"audio|speech|lip", "they are of an audio branch"),
    (r"camera|control|pose", "they are of a branch for control signals"),
    (r"ip_adapter|ref_conv|reference", "they are of a branch for reference pictures"),
    (
        r"(?:^|\.)(?:rope|freqs|inv_freq)(?:\.|$)",
        "they are tables of positions, which are computed here",
    ),
    (r"num_batches_tracked|_amax$|running_", "they are statistics of training"),
)
"""Names of weights beyond those of the model, and what they are."""


def require_fit(
    given: Shapes, own: Shapes, source: object, model: str, *, more: bool = False
) -> None:
    """Raise ValueError unless the names and shapes of a file are those of the model.

    Args:
        given: the shapes in the file, by the model's names.
        own: the shapes of the model.
        source: the file, for the message.
        model: the model's class.
        more: whether the file may hold more than the model.
    """
    missing = [name for name in own if name not in given]
    unexpected = [] if more else [name for name in given if name not in own]
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


def require_floats(types: Mapping[str, Any], source: object) -> None:
    """Raise ValueError unless all weights are floating-point numbers.

    Args:
        types: the types of plain weights, torch's, by name.
        source: the file, for the message.
    """
    odd = [name for name, dtype in types.items() if not dtype.is_floating_point]
    if odd:
        raise ValueError(
            f"{source} holds {len(odd)} weights as integers ({_grouped(odd)}; the first is "
            f"{types[odd[0]]}): a program packed them in a form that is not known here. Take the "
            f"model in 16 bits, or in one of the forms that `longlive convert` reads."
        )


def _grouped(names: list[str]) -> str:
    """Names with ``*`` for numbers of blocks, each with how often it stands."""
    groups = Counter(_NUMBERS.sub("*", name) for name in names)
    return few([name if n == 1 else f"{name} ({n} times)" for name, n in groups.items()], _SHOWN)


def _reason(missing: list[str], unexpected: list[str], misshapen: list[str], own: Shapes) -> str:
    """The likely reason of a difference, and the way out."""
    if missing and len(missing) == len(own):
        return "it is of another model, or saved under other names. Take the model's own file"
    if missing and not unexpected and not misshapen:
        places = {".".join(name.split(".")[:2]) for name in missing}
        lacking = [name for name in own if ".".join(name.split(".")[:2]) in places]
        if len(lacking) == len(missing) and all(re.search(r"\.\d+$", one) for one in places):
            return (
                "whole blocks lack, so a part of the file or a shard is not there. Fetch it again"
            )
        if all(name.endswith(".bias") for name in missing):
            return "biases were left out when it was saved. Save the whole state dict"
        return "it was saved in part, as adapters or trained weights alone. Save the whole model"
    if unexpected and not missing and not misshapen:
        for sign, what in _EXTRAS:
            if any(re.search(sign, name) for name in unexpected):
                return f"{what}. Take the model without them"
        return "it holds more than this model, as controls or a second model. Take them out"
    if misshapen and not missing and not unexpected:
        return "it is a model of the same family in another size. Take config and weights together"
    return "config and weights come from different models. Take both from one place"
