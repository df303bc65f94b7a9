"""NVFP4PageCodec: pages of keys and values in four bits, for ``longlive_core.kv_cache``.

It satisfies ``kv_cache.PageCodec`` without importing it. A page of one sample is a matrix with a
row for each token and a column for each channel of each head, quantized as ``reference.py`` says,
with an amax of its own. Blocks of 16 lie along the channels; a head size that is a multiple of 16
therefore keeps every block inside one head.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from longlive_core.backends import Backend, Operation, Receipt, Request, needs_triton
from longlive_core.checks import text
from longlive_core.eight_bit.page_codec import Page, PageShape, slot_tensor
from longlive_core.nvfp4 import reference
from longlive_core.nvfp4.format import (
    BLOCK,
    QuantizeConfig,
    ScaleRule,
    config_from_text,
    config_text,
    find_rule,
)
from longlive_core.nvfp4.quantize import FLOATS, quantize, tensor_amax

Store = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class NVFP4PageCodec:
    """Keeps pages in 4.5 bits a number: codes, block scales and one amax a sample and page.

    A store holds ``codes`` [slots, samples, tokens, heads * head_dim / 2], ``block_scales`` [.., /
    16] and ``amax`` [slots, samples]. NaN or infinity in a page make its sample's page NaN.

    Attributes:
        rule: how block scales are chosen.
        dtype: the type of what is read.
        reduce_amax: from the amax of this rank's heads, [samples], to that of all ranks'. With it
            the codes do not depend on how many ranks the heads are spread over.
        backend: a name of the tables ``QUANTIZE`` and ``DECODE_PAGES``, or "auto".
    """

    rule: ScaleRule = ScaleRule.FOUR_OVER_SIX_MSE
    dtype: torch.dtype = torch.bfloat16
    reduce_amax: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)
    backend: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "rule", find_rule(self.rule))
        text("NVFP4PageCodec.backend", self.backend, why="It names what decodes, or 'auto'.")
        if self.dtype not in FLOATS:
            raise ValueError(
                f"NVFP4PageCodec(dtype={self.dtype}): pages are decoded in float32 and rounded to "
                f"float32, bfloat16 or float16. Choose the one that attention reads."
            )

    @property
    def config(self) -> QuantizeConfig:
        """The format of the stored numbers."""
        return QuantizeConfig(rule=self.rule)

    def receipt(self, device: torch.device) -> Receipt:
        """What decodes pages on this device, and why nothing faster does."""
        return DECODE_PAGES.receipt(Request(device=device, dtype=self.dtype), self.backend)

    def workspace_pages(self, slots: int) -> int:
        """As many as there are slots: pages are decoded for each read."""
        return slots

    def page_bytes(self, shape: PageShape) -> int:
        """Half a byte a number, a byte for 16 of them, and four for a sample."""
        samples, tokens, width = _matrices(shape)
        return samples * (tokens * width // 2 + tokens * width // BLOCK + 4)

    def allocate(self, slots: int, shape: PageShape, device: torch.device) -> Store:
        """Room for ``slots`` pages, not yet written.

        Raises ``ValueError`` unless a token's channels are whole blocks of 16, and
        ``BackendUnavailable`` if the named backend cannot run on ``device``.
        """
        samples, tokens, width = _matrices(shape)
        self.receipt(device)
        page = slots, samples, tokens
        return {
            "codes": torch.empty(*page, width // 2, dtype=torch.uint8, device=device),
            "block_scales": torch.empty(
                *page, width // BLOCK, dtype=torch.float8_e4m3fn, device=device
            ),
            "amax": torch.empty(page[:2], dtype=torch.float32, device=device),
        }

    def write(self, store: Store, slot: int, page: Page) -> None:
        """Quantize ``page`` into ``slot``, each sample with an amax of its own."""
        samples, tokens, width = _matrices(
            (page.shape[0], page.shape[1], page.shape[2], page.shape[3])
        )
        amax = tensor_amax(page, samples)
        if self.reduce_amax is not None:
            amax = self.reduce_amax(amax)
        rows = page.reshape(samples * tokens, width)
        q = quantize(rows, self.config, amax=amax, backend=self.backend)
        for name, tensor in q.tensors().items():
            place = store[name][slot]
            place.copy_(tensor.view(place.shape))

    def read(
        self, stores: Sequence[Store], slots: Sequence[int], outs: Sequence[Page] | None
    ) -> list[Page]:
        """Decode these slots of every store into ``outs``, which come back: one launch on a GPU."""
        assert outs is not None, "a codec with workspace_pages is read into the workspace"
        torch.ops.longlive.nvfp4_decode_pages(
            list(outs),
            [store["codes"] for store in stores],
            [store["block_scales"] for store in stores],
            [store["amax"] for store in stores],
            list(slots),
            config_text(self.config),
            self.backend,
        )
        return list(outs)

    def tensors(self, store: Store) -> dict[str, Tensor]:
        """Codes, block scales and amax, as ``NVFP4Tensor`` names them."""
        return dict(store)

    def page(self, store: Store, slot: int) -> dict[str, Tensor]:
        """Codes, block scales and amax of the page in ``slot``, as views."""
        return {name: tensor[slot] for name, tensor in store.items()}

    def to_dict(self) -> dict[str, str | int]:
        """The codec's name, its rule and the bound of its scales, and the type that is read."""
        return {
            "name": "nvfp4",
            "rule": self.rule.value,
            "bound": self.config.largest_scale,
            "dtype": str(self.dtype).removeprefix("torch."),
        }


def _matrices(shape: PageShape) -> tuple[int, int, int]:
    """Samples, rows and columns of a page as matrices; ``ValueError`` if blocks do not fit."""
    samples, tokens, heads, head_dim = shape
    width = heads * head_dim
    if width % BLOCK:
        raise ValueError(
            f"NVFP4PageCodec cannot keep {heads} heads of {head_dim}: {BLOCK} neighboring "
            f"channels share a scale, and a token's {width} channels are no multiple of {BLOCK}. "
            f"Use Float8PageCodec or Int8PageCodec, which scale each token and head, or PlainCodec."
        )
    return samples, tokens, width


@functools.cache
def _implementation(device: torch.device, dtype: torch.dtype, backend: str) -> Callable:
    return DECODE_PAGES.select(Request(device=device, dtype=dtype), backend)


@torch.library.custom_op("longlive::nvfp4_decode_pages", mutates_args=("outs",))
def _decode_pages(
    outs: Sequence[Tensor],
    codes: Sequence[Tensor],
    block_scales: Sequence[Tensor],
    amax: Sequence[Tensor],
    slots: Sequence[int],
    config: str,
    backend: str,
) -> None:
    """Decode slots of stores into [samples, tokens, heads, head_dim], slot after slot."""
    run = _implementation(outs[0].device, outs[0].dtype, backend)
    run(outs, codes, block_scales, amax, slots, config_from_text(config))


def _triton_decode_pages(
    outs: Sequence[Tensor],
    codes: Sequence[Tensor],
    block_scales: Sequence[Tensor],
    amax: Sequence[Tensor],
    slots: Sequence[int],
    config: QuantizeConfig,
) -> None:
    from longlive_core.nvfp4.kernels import decode_pages

    device = outs[0].device
    with torch.cuda.device(device):
        where = slot_tensor(device, tuple(slots))
        decode_pages.decode_pages(outs, codes, block_scales, amax, where, config)


def _reference_decode_pages(
    outs: Sequence[Tensor],
    codes: Sequence[Tensor],
    block_scales: Sequence[Tensor],
    amax: Sequence[Tensor],
    slots: Sequence[int],
    config: QuantizeConfig,
) -> None:
    for out, *store in zip(outs, codes, block_scales, amax, strict=True):
        tokens = store[0].shape[2]
        for place, slot in enumerate(slots):
            q, scales, largest = (tensor[slot] for tensor in store)
            rows = reference.dequantize(q.flatten(0, 1), scales.flatten(0, 1), largest, config)
            page = out[:, place * tokens : (place + 1) * tokens]
            page.copy_(rows.view(page.shape))


DECODE_PAGES = Operation(
    "nvfp4.decode_pages",
    (
        Backend(name="triton", run=_triton_decode_pages, why_not=needs_triton),
        Backend(name="reference", run=_reference_decode_pages),
    ),
)
