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
MOST_BYTES = 2**50


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """A device.

    Attributes:
        name: what it is called.
        memory: its bytes.
        bf16, fp8, fp4: products a second in each, in 1e12 operations; 0 where a format is
            emulated, and so as fast as bf16 at best.
        bandwidth: bytes a second of its memory.
        link: bytes a second from the host's memory to it, of a slot with 16 lanes.
        host: bytes of the host's memory; None where that is not known.
        gpu: whether it is a GPU.
        fp8_attention: whether attention can round to eight bits, as FlashAttention-3 does.
        measured: whether the rates are of this very machine.
    """

    name: str
    memory: int
    bf16: float
    fp8: float = 0.0
    fp4: float = 0.0
    bandwidth: float
    link: float = 25e9
    host: int | None = None
    gpu: bool = True
    fp8_attention: bool = False
    measured: bool = False

    @property
    def reserved(self) -> int:
        """Bytes that no model gets: the driver's context and the libraries', or a bare Python."""
        return int((0.8 if self.gpu else 0.4) * GIB)


GPUS = {
    "h100": Hardware(
        name="H100 80GB",
        memory=int(79.2 * GIB),
        bf16=989,
        fp8=1979,
        bandwidth=3.35e12,
        link=5e10,
        fp8_attention=True,
    ),
    "h200": Hardware(
        name="H200",
        memory=int(139.8 * GIB),
        bf16=989,
        fp8=1979,
        bandwidth=4.8e12,
        link=5e10,
        fp8_attention=True,
    ),
    "b200": Hardware(
        name="B200",
        memory=int(178.0 * GIB),
        bf16=2250,
        fp8=4500,
        fp4=9000,
        bandwidth=8e12,
        link=5e10,
    ),
    "a100": Hardware(name="A100 80GB", memory=int(79.2 * GIB), bf16=312, bandwidth=2.0e12),
    "l40s": Hardware(name="L40S", memory=int(44.5 * GIB), bf16=362, fp8=733, bandwidth=0.864e12),
    "4090": Hardware(
        name="RTX 4090", memory=int(23.6 * GIB), bf16=165, fp8=330, bandwidth=1.008e12
    ),
    "5090": Hardware(
        name="RTX 5090",
        memory=int(31.4 * GIB),
        bf16=209,
        fp8=419,
        fp4=838,
        bandwidth=1.79e12,
        link=5e10,
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


def size_in_bytes(name: str, size: str) -> int:
    """The bytes of a size such as "24GB"; a GB is 2**30 bytes, as on a card's box.

    Raises:
        ValueError: it is no size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(gb|gib|g|mb|mib|m|tb|tib|t)\s*", size.lower())
    unit = {"m": 2**20, "g": GIB, "t": 2**40}[found[2][0]] if found else 1
    if found is None or not 1 <= float(found[1]) * unit <= MOST_BYTES:
        raise ValueError(
            f"{name}={shown(size)} is no size: write a number and a unit, such as 24GB or 512MB."
        )
    return int(float(found[1]) * unit)


def with_memory(hardware: Hardware, memory: str | None) -> Hardware:
    """The device with another memory, such as "24GB". Raises ValueError if that is no size."""
    if memory is None:
        return hardware
    return replace(hardware, memory=size_in_bytes("memory", memory))


def within(hardware: Hardware, most: str | None) -> Hardware:
    """The device with at most this memory. Raises ValueError if that is no size."""
    if most is None:
        return hardware
    return replace(hardware, memory=min(hardware.memory, size_in_bytes("max_memory", most)))


def here(device: str = "auto", *, rates: bool = True) -> Hardware:
    """A device of this machine: its first GPU, or its CPU, unless one is named.

    Args:
        device: "cpu", "cuda", "cuda:1", ... or "auto".
        rates: measure those of a CPU, which takes a tenth of a second.
    """
    import torch

    from longlive_core.memory import device_memory

    host = device_memory(torch.device("cpu"))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    one = torch.device(device)
    if one.type == "cuda":
        name, memory = torch.cuda.get_device_name(one), device_memory(one)
        short = next((key for key in GPUS if key in name.lower().replace(" ", "")), None)
        known = GPUS[short] if short else GPUS["a100"]
        return replace(known, name=name, memory=memory or known.memory, host=host, measured=False)
    known = GPUS["cpu"]
    return replace(
        known,
        name=f"CPU, {torch.get_num_threads()} threads",
        memory=host or known.memory,
        bf16=_cpu_rate() if rates else known.bf16,
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
