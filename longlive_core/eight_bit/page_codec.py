"""What the page codecs of different number formats share.

``EightBitPageCodec`` is a byte a number and a float32 scale for each token and head. The codecs
satisfy ``longlive_core.kv_cache.PageCodec``, which they need not import.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Float32, Int32, Shaped
from torch import Tensor

from longlive_core.backends import Backend, Operation, Receipt, Request, needs_triton
from longlive_core.checks import text
from longlive_core.host_numbers import numbers_on

PageShape = tuple[int, int, int, int]  # samples, tokens, heads, head_dim
Page = Float[Tensor, "samples tokens heads head_dim"]
Store = dict[str, Tensor]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, kw_only=True)
class EightBitPageCodec(ABC):
    """Keeps a byte a number, and a float32 scale for each token and head.

    A store holds ``codes`` [slots, samples, tokens, heads, head_dim] and ``scales`` [slots,
    samples, tokens, heads]; a number is read back as ``code * scale``. Nothing is shared between
    tokens, heads or samples, so every size works and codes do not depend on ranks. NaN or infinity
    make all of their token and head NaN.

    Attributes:
        dtype: the type of what is read.
        backend: a name of the table ``DECODE_BYTE_PAGES``, or "auto".
    """

    dtype: torch.dtype = torch.bfloat16
    backend: str = "auto"

    name: ClassVar[str]
    code_dtype: ClassVar[torch.dtype]

    def __post_init__(self) -> None:
        text(
            f"{type(self).__name__}.backend", self.backend, why="It names what decodes, or 'auto'."
        )
        if self.dtype not in DTYPES:
            raise ValueError(
                f"{type(self).__name__}(dtype={self.dtype}): pages are decoded in float32 and "
                f"rounded to float32, bfloat16 or float16. Choose the one that attention reads."
            )

    @abstractmethod
    def encode(
        self, rows: Float[Tensor, "rows head_dim"]
    ) -> tuple[Shaped[Tensor, "rows head_dim"], Float32[Tensor, "rows 1"]]:
        """Codes and scales of rows, each of one token and head."""

    def receipt(self, device: torch.device) -> Receipt:
        """What decodes pages on this device, and why nothing faster does."""
        return DECODE_BYTE_PAGES.receipt(Request(device=device, dtype=self.dtype), self.backend)

    def workspace_pages(self, slots: int) -> int:
        """As many as there are slots: pages are decoded for each read."""
        return slots

    def page_bytes(self, shape: PageShape) -> int:
        """A byte a number, and four for each token and head."""
        samples, tokens, heads, head_dim = shape
        return samples * tokens * heads * (head_dim + 4)

    def allocate(self, slots: int, shape: PageShape, device: torch.device) -> Store:
        """Room for ``slots`` pages, not yet written.

        Raises ``BackendUnavailable`` if the named backend cannot run on ``device``.
        """
        self.receipt(device)
        return {
            "codes": torch.empty(slots, *shape, dtype=self.code_dtype, device=device),
            "scales": torch.empty(slots, *shape[:3], dtype=torch.float32, device=device),
        }

    def write(self, store: Store, slot: int, page: Page) -> None:
        """Encode ``page`` into ``slot``."""
        codes, scales = self.encode(page.flatten(0, 2))
        store["codes"][slot] = codes.view(page.shape)
        store["scales"][slot] = scales.view(page.shape[:3])

    def read(
        self, stores: Sequence[Store], slots: Sequence[int], outs: Sequence[Page] | None
    ) -> list[Page]:
        """Decode these slots of every store into ``outs``, which come back: one launch on a GPU."""
        assert outs is not None, "a codec with workspace_pages is read into the workspace"
        torch.ops.longlive.decode_byte_pages(
            list(outs),
            [store["codes"] for store in stores],
            [store["scales"] for store in stores],
            list(slots),
            self.backend,
        )
        return list(outs)

    def tensors(self, store: Store) -> dict[str, Tensor]:
        """Codes and scales."""
        return dict(store)

    def page(self, store: Store, slot: int) -> dict[str, Tensor]:
        """Codes and scales of the page in ``slot``, as views."""
        return {name: tensor[slot] for name, tensor in store.items()}

    def to_dict(self) -> dict[str, str | int]:
        """The codec's name and the type that is read."""
        return {"name": self.name, "dtype": str(self.dtype).removeprefix("torch.")}


@functools.lru_cache(maxsize=1024)
def slot_tensor(device: torch.device, slots: tuple[int, ...]) -> Int32[Tensor, "slots"]:
    """A list of slots on a device. Few lists come up, so that they seldom have to be copied."""
    return numbers_on(device, slots, torch.int32)


@functools.cache
def _implementation(device: torch.device, dtype: torch.dtype, backend: str) -> Callable:
    return DECODE_BYTE_PAGES.select(Request(device=device, dtype=dtype), backend)


@torch.library.custom_op("longlive::decode_byte_pages", mutates_args=("outs",))
def _decode_byte_pages(
    outs: Sequence[Tensor],
    codes: Sequence[Tensor],
    scales: Sequence[Tensor],
    slots: Sequence[int],
    backend: str,
) -> None:
    """Decode slots of stores into [samples, tokens, heads, head_dim], slot after slot."""
    _implementation(outs[0].device, outs[0].dtype, backend)(outs, codes, scales, slots)


def _triton_decode(
    outs: Sequence[Tensor],
    codes: Sequence[Tensor],
    scales: Sequence[Tensor],
    slots: Sequence[int],
) -> None:
    from longlive_core.eight_bit.kernels import decode_byte_pages

    device = outs[0].device
    with torch.cuda.device(device):
        decode_byte_pages.decode_pages(outs, codes, scales, slot_tensor(device, tuple(slots)))


def _reference_decode(
    outs: Sequence[Tensor],
    codes: Sequence[Tensor],
    scales: Sequence[Tensor],
    slots: Sequence[int],
) -> None:
    for out, numbers, factors in zip(outs, codes, scales, strict=True):
        tokens = numbers.shape[2]
        for place, slot in enumerate(slots):
            page = out[:, place * tokens : (place + 1) * tokens]
            page.copy_(numbers[slot].float() * factors[slot][..., None])


DECODE_BYTE_PAGES = Operation(
    "decode_byte_pages",
    (
        Backend(name="triton", run=_triton_decode, why_not=needs_triton),
        Backend(name="reference", run=_reference_decode),
    ),
)
