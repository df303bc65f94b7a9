"""Hashes of a pipeline's weights that notice any change of them in memory.

Hashing files takes about a second for each gigabyte, so it is done once. Sums over the weights'
bits, computed at the speed of memory, tell whether memory still holds what was loaded.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock, Thread

import torch
from torch import Tensor, nn

from longlive_models.checkpoints.folder import fingerprint, fingerprint_tensors, hashed_files
from longlive_models.lora import LoRALinear, adapters

Parts = Mapping[str, nn.Module]

_COLUMNS = 1024
"""How many sums are made of the 64-bit words of a tensor."""

_ROWS = 4096
"""How many rows of words are multiplied by their places at once: 32 MiB."""


class FileHash:
    """SHA-256 of a model's weight files, computed when it is first asked for, or beside other work.

    Args:
        path: a folder or a file, which must not change.
        beside: other files and folders that change what the model makes, such as adapters, each
            with what it is. Without any, the hash is that of ``path`` alone.
    """

    def __init__(self, path: Path, beside: Sequence[tuple[str, Path]] = ()) -> None:
        self.path = path
        self._beside = tuple(beside)
        self._stamps = self._now()
        self._lock = Lock()
        self._found: str | None = None

    @property
    def untouched(self) -> bool:
        """Whether the files are the same as when this was made (by size and time)."""
        return self._stamps == self._now()

    @property
    def sha256(self) -> str:
        """``fingerprint`` of the files; the first call takes about a second for each gigabyte."""
        with self._lock:
            if self._found is None:
                self._found = self._hash()
            return self._found

    def _now(self) -> list[list[tuple[str, int, int]]]:
        return [_stamps(path) for path in (self.path, *(other for _, other in self._beside))]

    def _hash(self) -> str:
        own = fingerprint(self.path)
        if not self._beside:
            return own
        lines = [own, *(f"{what} {fingerprint(path)}" for what, path in self._beside)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def begin_hashing(hashes: Sequence[FileHash]) -> None:
    """Start computing hashes in a thread, one after another, beside what the program does next.

    The thread ends with the program. A file that cannot be read is told when its hash is asked for.
    """

    def work() -> None:
        with suppress(OSError):
            for one in hashes:
                _ = one.sha256

    Thread(target=work, name="hashes of weight files", daemon=True).start()


class WeightHash:
    """The hash of a pipeline's weights at the time of the call.

    Args:
        parts: the modules as they were loaded.
        files: the folder or file that they were loaded from, or its hash; None if from no file.
        device: a GPU that sums up the weights that wait in host memory.
    """

    def __init__(
        self,
        parts: Parts,
        files: "Path | FileHash | None" = None,
        *,
        device: torch.device | None = None,
    ) -> None:
        self._device = device
        self._files = FileHash(files) if isinstance(files, Path) else files
        self._loaded, self._adapters = _sums(parts, device), adapters_hash(parts)
        self._known: dict[str, str] = {}
        self._from_files: str | None = None

    def of(self, parts: Parts) -> str:
        """SHA-256 of the weights that are in ``parts`` now.

        It is the hash of the files while memory holds what was loaded from them, else that of the
        tensors in memory. Adapters beside the weights are hashed as well; those that were there
        at first are in the hash of the files.
        """
        now, beside = _sums(parts, self._device), adapters_hash(parts)
        files = self._files if now == self._loaded else None
        if now not in self._known:
            if files is not None and files.untouched:
                self._known[now], self._from_files = files.sha256, now
            else:
                self._known[now] = fingerprint_tensors(dict(_base(parts)))
        own, there = self._known[now], self._adapters if now == self._from_files else ""
        return own if beside == there else hashlib.sha256(f"{own} {beside}".encode()).hexdigest()


def adapters_hash(parts: Parts) -> str:
    """SHA-256 of the adapters in ``parts``, their scale included; "" if there are none."""
    digest, found = hashlib.sha256(), False
    for part, module in sorted(parts.items()):
        for name, layer in adapters(module):
            tensors = {"lora_A": layer.lora_A.weight, "lora_B": layer.lora_B.weight}
            how = f"{part}.{name} {layer.config.rank} {layer.config.alpha!r} {layer.merged}"
            digest.update(f"{how} {fingerprint_tensors(tensors)}\n".encode())
            found = True
    return digest.hexdigest() if found else ""


def _base(parts: Parts) -> Iterator[tuple[str, Tensor]]:
    """The weights under the names that they have without adapters."""
    for part, module in parts.items():
        beside = [name for name, layer in module.named_modules() if isinstance(layer, LoRALinear)]
        lora = tuple(f"{name}.lora_" for name in beside)
        for name, tensor in module.state_dict().items():
            if not lora or not name.startswith(lora):
                holder = next((n for n in beside if name.startswith(f"{n}.base_layer.")), None)
                plain = name if holder is None else name.replace(".base_layer.", ".", 1)
                yield f"{part}.{plain}", tensor


def _sums(parts: Parts, device: torch.device | None = None) -> str:
    """A hash of sums over the bits of all weights, which notices changes, though not hidden ones.

    A changed number changes it, and so do numbers that change places. Sums of whole numbers do not
    depend on their order or the number of threads.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(_base(parts)):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(_column_sums(tensor.detach(), device).cpu().numpy().tobytes())
    return digest.hexdigest()


def _column_sums(x: Tensor, device: torch.device | None = None) -> Tensor:
    """Sums over a tensor's words, on its device; of one on the CPU, on ``device``, if it is given.

    It goes there piece by piece.
    """
    bits = x.contiguous().reshape(-1).view(torch.uint8)
    if device is None or bits.device.type != "cpu":
        device = bits.device
    row = 8 * _COLUMNS
    whole = bits.numel() // row * row
    rest = torch.zeros(row, dtype=torch.uint8, device=device)
    rest[: bits.numel() - whole] = bits[whole:]
    words = bits[:whole].view(torch.int64).reshape(-1, _COLUMNS)
    total = rest.view(torch.int64).clone()
    for first in range(0, len(words), _ROWS):
        some = words[first : first + _ROWS].to(device)
        places = torch.arange(first, first + len(some), dtype=torch.int64, device=device)
        total += (some * (2 * places[:, None] + 3)).sum(0)  # odd: no bit of a word is lost
    return total


def _stamps(files: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and modification times of the files: they change where a file is replaced."""
    stats = [(str(file), file.stat()) for file in hashed_files(files)]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
