"""Where a pipeline computes and in which types: all of it decided before a weight is read."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from longlive_core.async_decode import make_lane
from longlive_core.attention import ATTENTION, Request
from longlive_core.backends import Receipt

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Devices, types and backends of a pipeline, none of them left open.

    ``weights`` is how precise the weights are, ``compute`` the type of the arithmetic. On a GPU the
    two are one. A CPU computes in fp32 whatever the weights: bf16 is slower there. Weights that are
    bf16 are rounded to bf16, then widened to fp32, once; with bf16 files the values, and the video,
    are those of ``weights="fp32"``.

    Attributes:
        device: of the transformer and the text encoder.
        weights, kv_cache: "fp32" or "bf16".
        attention: a backend of ``longlive_core.attention.ATTENTION``, or "auto".
        lane: where frames are decoded (``longlive_core.async_decode``).
    """

    device: torch.device
    weights: str
    kv_cache: str
    attention: str
    lane: str

    @classmethod
    def choose(
        cls,
        device: str = "auto",
        weights: str = "auto",
        kv_cache: str = "auto",
        attention: str = "auto",
        lane: str = "auto",
    ) -> "Placement":
        """Decide what was left to "auto": a GPU if there is one; bf16 on it, fp32 on a CPU.

        Raises:
            ValueError: a precision, a device or a lane that is not there.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        place = _device(device, f"device={device!r}")
        default = "fp32" if place.type == "cpu" else "bf16"
        chosen = {"weights": weights, "kv_cache": kv_cache}
        for name, value in chosen.items():
            chosen[name] = default if value == "auto" else value
            if chosen[name] not in PRECISIONS:
                raise ValueError(
                    f"{name}={value!r} is no precision of this version: it has "
                    f"{', '.join(PRECISIONS)}. Use one of them, or 'auto'."
                )
        if lane == "auto":
            lane = "stream" if place.type == "cuda" else "inline"
        _check_lane(lane, place)
        return cls(device=place, attention=attention, lane=lane, **chosen)

    @property
    def compute(self) -> str:
        """The type that the transformer computes in: "fp32" or "bf16"."""
        return self._compute_on(self.device)

    @property
    def decode_device(self) -> torch.device:
        """Where the VAE is: beside the transformer, or on the device that the lane names."""
        kind, _, device = self.lane.partition(":")
        return torch.device(device) if kind == "device" else self.device

    def put(self, module: nn.Module, device: torch.device | None = None) -> None:
        """Give a module's weights their precision, then its place and the type it computes in.

        In place, for inference: no gradients. ``device`` is ``self.device`` unless given.
        """
        device = self.device if device is None else device
        module.to(PRECISIONS[self.weights]).to(device, PRECISIONS[self._compute_on(device)])
        module.eval().requires_grad_(False)

    def receipt(self, head_dim: int) -> Receipt:
        """Which attention runs here for heads of this size, and why not the faster ones.

        Raises:
            BackendUnavailable: the one that was named cannot run here.
        """
        request = Request(device=self.device, dtype=PRECISIONS[self.compute], head_dim=head_dim)
        return ATTENTION.receipt(request, self.attention)

    def to_dict(self) -> dict[str, Any]:
        """What was decided, as plain values that JSON can hold."""
        return {
            "device": str(self.device),
            "weights": self.weights,
            "compute": self.compute,
            "kv_cache": self.kv_cache,
            "attention": self.attention,
            "lane": self.lane,
        }

    def _compute_on(self, device: torch.device) -> str:
        return "fp32" if device.type == "cpu" else self.weights


def _check_lane(lane: str, device: torch.device) -> None:
    """Raise ValueError for a lane that does not exist, or not beside ``device``."""
    if lane.startswith("device:"):
        _device(lane.removeprefix("device:"), f"lane={lane!r}")
    make_lane(lane).close()
    if lane == "stream" and device.type != "cuda":
        raise ValueError(
            f"lane='stream' needs a CUDA device, got {str(device)!r}: only CUDA has streams. "
            f"Use 'thread', 'inline' or 'auto'."
        )


def _device(name: str, asked: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(
            f"{asked} is no device: use 'auto', 'cpu', 'cuda' or 'cuda:1', say."
        ) from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(
            f"{asked} is a device that this library is not tested on: use 'cpu' or 'cuda'."
        )
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"{asked} asks for a GPU, but this torch ({torch.__version__}) sees none: "
            f"use 'cpu', or install a CUDA build of torch."
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"{asked} asks for GPU number {device.index}, but this machine has "
            f"{torch.cuda.device_count()}, counted from 0: use 'cuda:0', say."
        )
    return device
