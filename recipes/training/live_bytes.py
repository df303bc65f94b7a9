"""How many bytes of tensors a computation holds at a time, found without doing it.

The computation runs on fake tensors, which have sizes and no values, so that a model of any size
is measured in seconds on any machine. Counted is what torch's allocator would count: each piece of
memory once, from the operation that makes it until the last tensor in it is gone.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from functorch.compile import (
    aot_function,
    make_boxed_func,
    min_cut_rematerialization_partition,
)
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """A context that counts the bytes of the tensors that operations within it make.

    Attributes:
        now: bytes that are alive.
        peak: the most that were alive at a time since ``start_peak``.
        at_peak: what ``noted`` gave at that time.
    """

    def __init__(self, noted: Callable[[], int] = lambda: 0) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self.at_peak = 0
        self._noted = noted
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def hold(self, tensors: Iterable[Tensor]) -> None:
        """Count tensors that were made before."""
        for tensor in tensors:
            self._count(tensor)

    def start_peak(self) -> None:
        """Forget the peak so far."""
        self.peak, self.at_peak = self.now, self._noted()

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self.now += size
        weakref.finalize(storage, self._drop, size)
        if self.now > self.peak:
            self.peak, self.at_peak = self.now, self._noted()

    def _drop(self, size: int) -> None:
        self.now -= size

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.hold(one for one in tree_leaves(result) if isinstance(one, Tensor))
        return result


@contextmanager
def fake_tensors() -> Iterator[None]:
    """Within the block tensors are made without values."""
    with FakeTensorMode():
        yield


@contextmanager
def norms_as_on_gpu() -> Iterator[None]:
    """Within the block RMS norms keep what a GPU's kernel keeps, without their values.

    It keeps its input and a float for each row for the backward pass; on a CPU the norm is several
    operations, which keep two copies of the input in float32. torch's own function is replaced
    meanwhile, for a block that is computed again in a backward pass meets no mode of torch's.
    """
    own = nn.functional.rms_norm
    nn.functional.rms_norm = _norm_as_on_gpu
    try:
        yield
    finally:
        nn.functional.rms_norm = own


def _norm_as_on_gpu(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    normed: Tensor = _NormOfGPU.apply(input, weight)
    return normed


class _NormOfGPU(torch.autograd.Function):
    """The sizes of an RMS norm and its gradients, without their values."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None) -> Tensor:
        row = torch.empty(*x.shape[:-1], 1, dtype=torch.float32, device=x.device)
        ctx.save_for_backward(x, weight, row)
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None]:
        x, weight, _ = ctx.saved_tensors
        return torch.empty_like(x), None if weight is None else torch.empty_like(weight)


def kept_when_compiled(call: Callable[..., Tensor], *inputs: Any) -> int:
    """Bytes that a compiled ``call`` keeps for its backward pass, beside its inputs.

    A compiler decides what is kept and what is computed again: where that costs little, by a
    minimum cut through the graph of both passes. The same cut is made here.

    Args:
        call: a function of ``inputs`` alone.
        inputs: fake tensors, perhaps in mappings; those of weights too.
    """
    from torch._inductor.decomposition import select_decomp_table  # seconds, for those who compile

    kept = 0

    def forward(graph: fx.GraphModule, example: list[Any]) -> Any:
        nonlocal kept
        nodes = list(graph.graph.nodes)
        given = {id(s) for node in nodes if node.op == "placeholder" for s in _storages(node)}
        out = [node for node in nodes[-1].args[0] if isinstance(node, fx.Node)]
        sizes = {id(s): s.nbytes() for node in out[1:] for s in _storages(node)}
        kept = sum(size for storage, size in sizes.items() if storage not in given)
        return make_boxed_func(graph.forward)

    def backward(graph: fx.GraphModule, example: list[Any]) -> Any:
        return make_boxed_func(graph.forward)

    traced = aot_function(
        call,
        fw_compiler=forward,
        bw_compiler=backward,
        partition_fn=min_cut_rematerialization_partition,
        decompositions=select_decomp_table(),
    )
    traced(*inputs)
    return kept


def _storages(node: fx.Node) -> list[torch.UntypedStorage]:
    value = node.meta.get("val")
    return [value.untyped_storage()] if isinstance(value, Tensor) else []
