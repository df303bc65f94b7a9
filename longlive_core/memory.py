"""Whether what is about to be allocated can be there at all: told before it is tried.

Asking for more memory than a machine has ends in a killed process or in another library's error,
often long after the mistake. The bound is the device's whole memory: what fits into that may still
not fit beside what is in use, and then the allocation itself says so.
"""

import os

import torch


def device_memory(device: torch.device) -> int | None:
    """All the bytes that a device has, in use or not; None where that is not known."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if device.type == "cpu" and hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def require_room(what: str, needed: int, device: torch.device, *, why: str) -> None:
    """Raise ``ValueError`` if ``needed`` bytes are more than a device has.

    Args:
        what: what they are for, in the plural.
        why: what makes them so many, and the way out, as whole sentences; ends the message.
    """
    there = device_memory(device)
    if there is not None and needed > there:
        raise ValueError(
            f"{what} take {_size(needed)}, and {device} has {_size(there)} in all: {why}"
        )


def _size(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB" if count < 2**60 else f"{count / 2**60:.3g} EiB"
