"""What the checks of groups 1 to 3 share: a model from a case's sizes, texts, tolerances."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from longlive_models.wan import HeadExchange, WanConfig, WanTransformer
from tests.checks.framework import Case

RENAMED = {
    "in_dim": "in_channels",
    "out_dim": "out_channels",
    "num_frame_per_block": "frames_per_block",
}
SHARED = set(WanConfig.__dataclass_fields__)


def sizes(values: Mapping[str, Any]) -> WanConfig:
    """The config of the original's sizes, among other settings."""
    names = {RENAMED.get(name, name): name for name in values}
    return WanConfig.from_dict({ours: values[names[ours]] for ours in names if ours in SHARED})


def build(
    values: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    exchange: HeadExchange | None = None,
    **changes: Any,
) -> WanTransformer:
    """A float32 model of the original's sizes, with ``weights`` under their published keys."""
    model = WanTransformer(replace(sizes(values), **changes), exchange=exchange)
    model.load_state_dict(dict(weights))
    return model


def texts(case: Case, prefix: str) -> list[Tensor]:
    """The text embeddings ``prefix0``, ``prefix1``, .. of a case, in order."""
    found = {
        int(match[1]): tensor
        for key, tensor in case.tensors.items()
        if (match := re.fullmatch(rf"{re.escape(prefix)}(\d+)", key))
    }
    return [found[index] for index in sorted(found)]


def batch(embeddings: Sequence[Tensor], length: int, samples: int) -> Tensor:
    """Embeddings, sample by sample, padded with zeros: [samples, segments, length, width]."""
    padded = [nn.functional.pad(e, (0, 0, 0, length - len(e))) for e in embeddings]
    return torch.stack(padded).unflatten(0, (samples, -1))


def tolerance(case: Case) -> tuple[float, float]:
    """The first ``rtol`` and ``atol`` of a case's tolerance."""
    numbers = re.search(r"rtol ([\d.e-]+),? atol ([\d.e-]+\d)", case.meta["tolerance"])
    assert numbers, case.meta["tolerance"]
    return float(numbers[1]), float(numbers[2])


@contextmanager
def recorded(model: WanTransformer, names: Mapping[str, str]) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of submodules while the model runs: {label: submodule's name}."""
    outputs: dict[str, Tensor] = {}
    handles = []
    for label, name in names.items():

        def keep(_module: nn.Module, _args: object, output: Tensor, label: str = label) -> None:
            outputs[label] = output

        handles.append(model.get_submodule(name).register_forward_hook(keep))
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
