"""When each block was decoded, and where: what shows whether decoding hid behind denoising."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One block's decoding: ``start`` and ``end`` in seconds of ``time.perf_counter``."""

    block: int
    lane: str
    start: float
    end: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.start
