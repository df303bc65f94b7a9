"""How much a command says: `--quiet`, nothing of both, or `--verbose`."""

from types import TracebackType
from typing import TYPE_CHECKING

from longlive_cli.messages import note

if TYPE_CHECKING:
    from longlive_cli.progress import FrameBar
    from longlive_models import StepReport
    from longlive_recipes.generate import BlockReport, Plan


def how_much(quiet: bool, verbose: bool) -> str:
    """The word for both options: "quiet", "usual" or "verbose". Raises ValueError for both."""
    if quiet and verbose:
        raise ValueError("--quiet says less and --verbose says more: leave one of them out.")
    return "quiet" if quiet else "verbose" if verbose else "usual"


def view(detail: str, names: list[str]) -> "FrameBar | BlockLines | Silence":
    """What shows the progress of videos with these names."""
    if detail == "quiet":
        return Silence()
    if detail == "verbose":
        return BlockLines()
    from longlive_cli.progress import FrameBar  # rich, which takes a while

    return FrameBar(names)


class Silence:
    """Shows nothing."""

    def __call__(self, report: "BlockReport") -> None:
        """A block of a video is in its file."""

    def step(self, name: str, report: "StepReport") -> None:
        """A denoising step is done."""

    def __enter__(self) -> "Silence":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing is held."""


class BlockLines(Silence):
    """Shows a line for each block, with the seconds of its parts and the peak of memory."""

    def __init__(self) -> None:
        self._first: dict[str, BlockReport] = {}

    def __call__(self, report: "BlockReport") -> None:
        """A block of a video is in its file."""
        from longlive_cli.progress import speed

        name = report.job.name
        parts = [speed(report, self._first.get(name))]
        self._first.setdefault(name, report)
        if report.timing is not None:
            parts += [
                f"{report.timing.denoise:.3f} s denoising",
                f"{report.timing.decode:.3f} s decoding",
            ]
        if report.memory:
            parts.append(f"{report.memory / 1e9:.2f} GB at most")
        note(f"{name}: block {report.index + 1}/{report.blocks}, {', '.join(parts)}")


def tell_picked(plan: "Plan", detail: str = "usual") -> None:
    """Say what was picked for a bound of memory, if there is one."""
    for line in plan.picked if detail != "quiet" else ():
        note(f"longlive: {plan.config.model} {line}")


def tell_plan(plan: "Plan", detail: str, *, named: bool) -> None:
    """Say what the files become; in detail, what runs where, and which faster backends cannot.

    Args:
        named: whether a precision of the weights was asked for.
    """
    if detail == "quiet":
        return
    if named and plan.stored.partition(",")[0] not in plan.weights:
        note(f"longlive: the files hold {plan.stored}; weights become {plan.weights}.")
    if detail == "usual":
        return
    note(
        f"longlive: {plan.config.model} on {plan.device}: weights {plan.weights} (the files hold "
        f"{plan.stored}), computed in {plan.compute}, cache in {plan.kv_cache}, decoded on the "
        f"lane {plan.lane}; quality {plan.quality}"
    )
    note(
        f"longlive: {plan.size}, {plan.fps:g} frames a second; sampler {plan.sampler}, steps "
        f"{plan.steps}, guidance {plan.guidance:g}"
    )
    for receipt in (plan.attention_receipt, *plan.linears):
        note(f"longlive: {receipt}")
