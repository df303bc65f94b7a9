"""What tests need, here and of other people's kernels: exactness, with the difference shown."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor
from torch.overrides import TorchFunctionMode

from longlive_core.tensor_checks import present

_INTEGER_OF_WIDTH = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_ALLOCATORS = {
    torch.empty,
    torch.empty_like,
    torch.empty_strided,
    Tensor.new_empty,
    Tensor.new_empty_strided,
}


def assert_bitwise_equal(
    got: Shaped[Tensor, "..."], want: Shaped[Tensor, "..."], what: str = "tensors"
) -> None:
    """Raise ``AssertionError``, naming the first difference, unless both hold the same bytes.

    Type and shape must agree. Two NaNs are equal if their bits are; 0.0 and -0.0 are not.
    """
    for name, x in (("got", got), ("want", want)):
        present(f"{what}: {name}", x, why="two tensors are compared.")
    if got.dtype != want.dtype or got.shape != want.shape:
        raise AssertionError(
            f"{what} differ in kind: got {got.dtype} {tuple(got.shape)}, "
            f"want {want.dtype} {tuple(want.shape)}"
        )
    got, want = got.detach().cpu(), want.detach().cpu()
    unequal = _bits(got) != _bits(want)
    if not bool(unequal.any()):
        return
    where = tuple(unequal.nonzero()[0].tolist())
    raise AssertionError(
        f"{what} differ at {int(unequal.sum())} of {got.numel()} elements, first at {where}: "
        f"got {got[where].item()!r}, want {want[where].item()!r}"
    )


def ulp_distance(a: Shaped[Tensor, "..."], b: Shaped[Tensor, "..."]) -> Int64[Tensor, "..."]:
    """How many representable numbers lie between each pair, for floats of up to 32 bits.

    Neighbors are 1 apart; 0.0 and -0.0 are the same. NaN has no place on the line: it raises.
    """
    for x in (a, b):
        present("what ulp_distance compares", x, why="it counts numbers between two tensors.")
    if a.shape != b.shape:
        raise ValueError(
            f"ulp_distance compares tensors of one shape, got {tuple(a.shape)} and "
            f"{tuple(b.shape)}: numbers are taken in pairs. Expand one of them."
        )
    if a.dtype != b.dtype or not a.is_floating_point() or a.element_size() > 4:
        raise ValueError(
            f"ulp_distance needs two tensors of one floating type of 32 bits or fewer, got "
            f"{a.dtype} and {b.dtype}: distances are counted in int64. Cast one of them."
        )
    if bool(a.isnan().any() or b.isnan().any()):
        raise ValueError("ulp_distance met a NaN: it has no neighbors. Compare NaNs on their own.")
    return (_rank(a) - _rank(b)).abs()


class _FillWithNaN(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _ALLOCATORS and result.is_floating_point():
            result.detach().fill_(float("nan"))  # also where it is a leaf that requires grad
        return result


@contextmanager
def nan_filled_empty() -> Iterator[None]:
    """Within, floating tensors from ``torch.empty`` and its relatives hold NaN.

    Code that reads what it has not written then fails instead of finding last week's numbers.
    """
    with _FillWithNaN():
        yield


def _bits(x: Tensor) -> Tensor:
    if x.is_complex():
        x = torch.view_as_real(x)
    return x.contiguous().view(_INTEGER_OF_WIDTH[x.element_size()])


def _rank(x: Tensor) -> Tensor:
    """The position of each number on the line of its type's numbers."""
    width = 8 * x.element_size()
    bits = _bits(x).to(torch.int64) & ((1 << width) - 1)
    magnitude = bits & ((1 << (width - 1)) - 1)
    return torch.where(bits >> (width - 1) == 1, -magnitude, magnitude)
