"""When and where each block was decoded, to see whether decoding overlapped with denoising."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """When and where one block was decoded.

    Attributes:
        block: the block's number, from 0.
        lane: the lane's name.
        start, end: in seconds of ``time.perf_counter``.
    """

    block: int
    lane: str
    start: float
    end: float

    @property
    def seconds(self) -> float:
        """How long decoding took, in seconds."""
        return self.end - self.start
