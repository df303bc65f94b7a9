"""One table per operation: which backend runs where, and why the others cannot.

An ``Operation`` lists its backends, fastest first, the plain-PyTorch reference last. A backend that
a caller names runs or raises; "auto" takes the first that can run and that is not reserved for
those who name it (``why_not_auto``). What was chosen, and why the others were not, is a ``Receipt``
that a layer can keep.

A backend is of a tier: "lossless" ones give what the plain path gives, within what backends of an
operation may always differ by; "high" ones round more, and "auto" takes them only for a request of
that quality.
"""

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass

import torch

from longlive_core.checks import hold_wholes, instance, known_quality, shown, text


class BackendUnavailable(RuntimeError):
    """The caller named a backend that does not exist or cannot run what was asked of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a backend needs to know to say whether it can run.

    ``needs_grad`` is True when a gradient will be asked for: a forward-only kernel then says no.
    ``head_dim`` is None for operations that have no heads; ``grouped`` is True where several query
    heads share a key head. ``quality`` is the tier that "auto" may take, "lossless" or "high".
    """

    device: torch.device
    dtype: torch.dtype
    head_dim: int | None = None
    needs_grad: bool = False
    grouped: bool = False
    quality: str = "lossless"

    def __post_init__(self) -> None:
        instance("Request.device", self.device, torch.device, why="write torch.device('cpu').")
        instance("Request.dtype", self.dtype, torch.dtype, why="write torch.bfloat16, say.")
        if self.head_dim is not None:
            why = "it is a number of channels. Leave it out where there are no heads."
            hold_wholes(self, "head_dim", at_least=1, why=why)
        known_quality("Request.quality", self.quality)


Condition = Callable[[Request], str | None]  # None: it holds; else one plain sentence, no full stop


def always(request: Request) -> None:
    """The condition of a reference backend: it runs anywhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One implementation of an operation.

    Attributes:
        name: what callers name it by, and receipts.
        run: the function that is called; its arguments are the operation's.
        why_not: why it cannot run a request; None where it can.
        why_not_auto: why "auto" does not take it although it can run, as where it is slower, or
            takes minutes to compile; None where it may. Named, it runs.
        emulates: whether it imitates a number format in wider arithmetic; strict callers refuse it.
        quality: its tier; one of "high" rounds more than the plain path does.
    """

    name: str
    run: Callable
    why_not: Condition = always
    why_not_auto: Condition = always
    emulates: bool = False
    quality: str = "lossless"


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Which backend an operation took, and of each one "usable" or why it is not.

    ``emulated`` is True where that backend imitates a number format in wider arithmetic.
    """

    operation: str
    requested: str
    backend: str
    device: str
    reasons: dict[str, str]
    emulated: bool = False

    def __str__(self) -> str:
        passed = [f"not {name}: {why}" for name, why in self.reasons.items() if why != "usable"]
        head = f"{self.operation}: {self.backend} on {self.device} (asked for {self.requested})"
        if self.emulated and self.backend != "emulated":
            head += ", emulated"
        return "; ".join([head, *passed])


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation and its backends, fastest first, the plain-PyTorch reference last.

    ``select`` gives the function to call, ``receipt`` the account of the choice, ``explain`` the
    state of every backend. Choosing runs nothing and remembers nothing. Modules select when they
    are built; functions that must serve any tensor select for each request.
    """

    name: str
    backends: tuple[Backend, ...]

    def explain(self, request: Request, *, strict: bool = False) -> dict[str, str]:
        """Of each backend: "usable", "usable when named: ..." or why it is not usable."""
        return {backend.name: _standing(backend, request, strict) for backend in self.backends}

    def receipt(self, request: Request, backend: str = "auto", *, strict: bool = False) -> Receipt:
        """The choice for this request, with reasons.

        ``strict`` refuses backends that emulate a number format. Raises ``BackendUnavailable`` when
        a named backend is unknown or cannot run, or when nothing is left for ``auto``.
        """
        why = "it says what is asked of a backend. Build a Request(device=..., dtype=...)."
        instance("a request", request, Request, why=why)
        text("backend", backend, why="it names one. Use 'auto' for the fastest that can run.")
        reasons = self.explain(request, strict=strict)
        if backend == "auto":
            chosen = next((name for name, why in reasons.items() if why == "usable"), None)
            if chosen is None:
                listed = "; ".join(f"{name}: {why}" for name, why in reasons.items())
                raise BackendUnavailable(
                    f"{self.name} has no backend for this request on {request.device} ({listed}). "
                    f"Name one that is usable when named, or relax strict=True."
                )
        elif backend not in reasons:
            raise BackendUnavailable(
                f"{self.name} has no backend {backend!r}; it has {', '.join(reasons)}, or 'auto'."
            )
        elif not reasons[backend].startswith("usable"):
            raise BackendUnavailable(
                f"{self.name} cannot use backend {backend!r} on {request.device}: "
                f"{reasons[backend]}. Pass backend='auto' to let the library choose."
            )
        else:
            chosen = backend
        return Receipt(
            operation=self.name,
            requested=backend,
            backend=chosen,
            device=str(request.device),
            reasons=reasons,
            emulated=self.named(chosen).emulates,
        )

    def select(self, request: Request, backend: str = "auto", *, strict: bool = False) -> Callable:
        """The implementation to call; the same choice and the same errors as ``receipt``."""
        return self.named(self.receipt(request, backend, strict=strict).backend).run

    def named(self, name: str) -> Backend:
        """The table's row of this name."""
        for backend in self.backends:
            if backend.name == name:
                return backend
        known = ", ".join(backend.name for backend in self.backends)
        raise BackendUnavailable(f"{self.name} has no backend {shown(name)}; it has {known}.")


def _standing(backend: Backend, request: Request, strict: bool) -> str:
    if strict and backend.emulates:
        return "it emulates the number format, and strict=True refuses emulation"
    if (reason := backend.why_not(request)) is not None:
        return reason
    if (reason := backend.why_not_auto(request)) is not None:
        return f"usable when named: {reason}"
    if backend.quality == "high" and request.quality != "high":
        return "usable when named: it rounds more than the plain path; quality='high' takes it"
    return "usable"


def all_of(*conditions: Condition) -> Condition:
    """Every condition must hold; the first that does not gives the sentence."""

    def why_not(request: Request) -> str | None:
        for condition in conditions:
            if (reason := condition(request)) is not None:
                return reason
        return None

    return why_not


def needs_cuda(request: Request) -> str | None:
    """The condition of anything that runs on an NVIDIA GPU."""
    if request.device.type != "cuda":
        return f"it needs a CUDA device, not {request.device.type}"
    return None


def needs_compute_capability(
    low: tuple[int, int], high: tuple[int, int] | None = None
) -> Condition:
    """A GPU of compute capability ``low`` or later; with ``high``, no later than that one."""

    def why_not(request: Request) -> str | None:
        if (reason := needs_cuda(request)) is not None:
            return reason
        found = torch.cuda.get_device_capability(request.device)
        if found < low:
            return f"it needs compute capability {_dotted(low)}, this GPU has {_dotted(found)}"
        if high is not None and found > high:
            return (
                f"it runs up to compute capability {_dotted(high)}, this GPU has {_dotted(found)}"
            )
        return None

    return why_not


def needs_dtype(*dtypes: torch.dtype) -> Condition:
    """Operands of one of these types."""
    names = " or ".join(_short(dtype) for dtype in dtypes)

    def why_not(request: Request) -> str | None:
        if request.dtype not in dtypes:
            return f"it needs {names}, not {_short(request.dtype)}"
        return None

    return why_not


def needs_head_dim(*, multiple_of: int, low: int = 1, high: int) -> Condition:
    """A head size between ``low`` and ``high``, divisible by ``multiple_of``."""

    def why_not(request: Request) -> str | None:
        size = request.head_dim
        if size is None or size % multiple_of or not low <= size <= high:
            return (
                f"it needs a head size from {low} to {high} divisible by {multiple_of}, not {size}"
            )
        return None

    return why_not


def forward_only(request: Request) -> str | None:
    """The condition of a kernel without a backward."""
    if request.needs_grad:
        return "it has no backward, and a gradient is needed"
    return None


def needs_equal_heads(request: Request) -> str | None:
    """The condition of a kernel for as many key heads as query heads."""
    if request.grouped:
        return "it takes as many key heads as query heads, and here they are fewer"
    return None


def needs_function(package: str, *places: tuple[str, str]) -> Condition:
    """An optional package: one of ``places`` (module, function) can be imported.

    The import happens when the question is asked, so put cheaper conditions before this one.
    """

    def why_not(request: Request) -> str | None:
        function, failures = find_function(*places)
        if function is None:
            return f"it needs the package {package} ({'; '.join(failures)})"
        return None

    return why_not


needs_triton: Condition = all_of(
    needs_compute_capability((8, 0)), needs_function("triton", ("triton", "jit"))
)
"""The condition of a kernel written in Triton."""


@functools.cache
def find_function(*places: tuple[str, str]) -> tuple[Callable | None, tuple[str, ...]]:
    """The first of ``places`` (module, function) that can be imported, or why none can."""
    failures = []
    for module, function in places:
        try:
            found = vars(importlib.import_module(module)).get(function)
        except (ImportError, OSError) as error:
            failures.append(f"{module}: {error}")
            continue
        if found is not None:
            return found, ()
        failures.append(f"{module} has no {function}")
    return None, tuple(failures)


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
