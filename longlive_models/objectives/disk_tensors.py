"""Tensors whose numbers lie on a disk, in files that go with the process, however it ends."""

import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

_PIECE = 1 << 20


def disk_tensor(folder: Path, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor of zeros, mapped from a file in ``folder`` that keeps no name.

    The system writes its pages out and reads them back as memory gets short. All of the file is
    written before it is mapped, so that a full disk is told here and not by a signal later.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    count = math.prod(shape)
    handle, name = tempfile.mkstemp(prefix="numbers_", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            left = count * dtype.itemsize
            while left > 0:
                left -= file.write(bytes(min(left, _PIECE)))
            file.flush()
            os.fsync(file.fileno())
        mapped = torch.from_file(name, shared=True, size=count, dtype=dtype)
    finally:
        os.unlink(name)
    return mapped.view(*shape)
