"""Devices that a plan is made for: their memory and speed. Numbers only; no torch before `here`.

Peak rates are the makers' dense ones. Shares of them that are reached were measured on an H200 with
LongLive-2.0-5B (benchmarks/README.md); for other GPUs they are carried over, so seconds are within
a quarter there, and within a tenth on an H200.
"""

import re
import time
from dataclasses import dataclass, replace

from longlive_core.checks import shown
from longlive_core.names import did_you_mean

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """A device.

    Attributes:
        name: what it is called.
        memory: its bytes.
        bf16, fp8, fp4: products a second in each, in 1e12 operations; 0 where a format is
            emulated, and so as fast as bf16 at best.
        bandwidth: bytes a second of its memory.
        gpu: whether it is a GPU.
        measured: whether the rates are of this very machine.
    """

    name: str
    memory: int
    bf16: float
    fp8: float = 0.0
    fp4: float = 0.0
    bandwidth: float
    gpu: bool = True
    measured: bool = False

    @property
    def reserved(self) -> int:
        """Bytes that no model gets: the driver's context and the libraries', or a bare Python."""
        return int((0.8 if self.gpu else 0.4) * GIB)


GPUS = {
    "h100": Hardware(
        name="H100 80GB", memory=int(79.2 * GIB), bf16=989, fp8=1979, bandwidth=3.35e12
    ),
    "h200": Hardware(name="H200", memory=int(139.8 * GIB), bf16=989, fp8=1979, bandwidth=4.8e12),
    "b200": Hardware(
        name="B200", memory=int(178.0 * GIB), bf16=2250, fp8=4500, fp4=9000, bandwidth=8e12
    ),
    "a100": Hardware(name="A100 80GB", memory=int(79.2 * GIB), bf16=312, bandwidth=2.0e12),
    "l40s": Hardware(name="L40S", memory=int(44.5 * GIB), bf16=362, fp8=733, bandwidth=0.864e12),
    "4090": Hardware(
        name="RTX 4090", memory=int(23.6 * GIB), bf16=165, fp8=330, bandwidth=1.008e12
    ),
    "5090": Hardware(
        name="RTX 5090", memory=int(31.4 * GIB), bf16=209, fp8=419, fp4=838, bandwidth=1.79e12
    ),
    "3090": Hardware(name="RTX 3090", memory=int(23.6 * GIB), bf16=71, bandwidth=0.936e12),
    "cpu": Hardware(name="2 CPU cores", memory=8 * GIB, bf16=0.25, bandwidth=1.5e10, gpu=False),
}
"""The devices that have a name; memory is what a process can allocate of what the box says."""


def named(name: str) -> Hardware:
    """The device of a name, such as "rtx4090" or "H100". Raises ValueError for an unknown one."""
    short = re.sub(r"^(nvidia|geforce|rtx|[ _-])+", "", name.strip().lower())
    found = GPUS.get(re.sub(r"[ _-]?\d+gb$", "", short))
    if found is None:
        raise ValueError(
            f"gpu={shown(name)} is no device that is known here{did_you_mean(name, GPUS)}There are "
            f"{', '.join(GPUS)}. For another one pass the nearest, with --memory."
        )
    return found


def with_memory(hardware: Hardware, memory: str | None) -> Hardware:
    """The device with another memory, such as "24GB"; a GB is 2**30 bytes, as on a card's box.

    Raises:
        ValueError: it is no size.
    """
    if memory is None:
        return hardware
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(gb|gib|g|mb|mib|m|tb|tib|t)\s*", memory.lower())
    if found is None or float(found[1]) <= 0:
        raise ValueError(
            f"memory={shown(memory)} is no size: write a number and a unit, such as 24GB or 512MB."
        )
    unit = {"m": 2**20, "g": GIB, "t": 2**40}[found[2][0]]
    return replace(hardware, memory=int(float(found[1]) * unit))


def here() -> Hardware:
    """The first GPU of this machine, or its CPU; rates of a CPU are measured, in a tenth of a
    second."""
    import torch

    from longlive_core.memory import device_memory

    if torch.cuda.is_available():
        name, memory = torch.cuda.get_device_name(0), device_memory(torch.device("cuda:0"))
        short = next((key for key in GPUS if key in name.lower().replace(" ", "")), None)
        known = GPUS[short] if short else GPUS["a100"]
        return replace(known, name=name, memory=memory or known.memory, measured=False)
    memory = device_memory(torch.device("cpu"))
    known = GPUS["cpu"]
    return replace(
        known,
        name=f"CPU, {torch.get_num_threads()} threads",
        memory=memory or known.memory,
        bf16=_cpu_rate(),
        measured=True,
    )


def _cpu_rate() -> float:
    """Products of float32 matrices on this CPU, in 1e12 operations a second: the best of a few."""
    import torch

    side, best = 512, float("inf")
    one = torch.ones(side, side, dtype=torch.float32, device="cpu")
    end = time.perf_counter() + 0.2
    while (began := time.perf_counter()) < end:
        one @ one
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best / 1e12
