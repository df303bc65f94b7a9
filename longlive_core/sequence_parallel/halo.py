"""Which frames a rank encodes besides its own, so that parts of a video encode as the whole does.

A causal encoder's latent frame depends on frames before it, up to a limit: the history of its
convolutions. A rank that encodes its own frames and as many before them, and drops what the extra
ones give, has what encoding the whole video would have given.

Source: LongLive-2.0 (arXiv 2605.18739), chunk-halo encoding.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from longlive_core.checks import shown, whole


@dataclass(frozen=True, kw_only=True)
class HaloWindow:
    """The frames that a rank encodes, and the latent frames that it keeps of the result.

    Attributes:
        pixels: the frames of the video to encode, as if they were a whole video.
        drop: latent frames to drop at the start of what that gives.
        keep: the latent frames of the video that are left.
    """

    pixels: range
    drop: int
    keep: range


def halo_window(keep: range, *, halo: int, stride: int) -> HaloWindow:
    """The window that encodes the latent frames ``keep`` with ``halo`` latent frames before them.

    The encoder's first latent frame holds one frame, every later one ``stride``. It treats the
    first frame it is given as a video's first, which inside a video is wrong: a window that does
    not begin at frame 0 therefore begins with the last frame of one latent frame more, so that
    groups of ``stride`` frames fall where they fall in the whole video.

    Raises:
        ValueError: ``keep`` is empty or not consecutive, ``halo`` negative, ``stride`` below 1.
    """
    if not isinstance(keep, range):
        raise ValueError(
            f"a halo window keeps a range of latent frames, got {shown(keep)}: they are "
            f"consecutive. Pass range(first, last + 1)."
        )
    halo = whole("a halo", halo, why="it is a number of latent frames, 0 or more.")
    stride = whole("a stride", stride, why="it is the frames of a latent frame, 1 or more.")
    if len(keep) < 1 or keep.step != 1 or keep.start < 0 or halo < 0 or stride < 1:
        raise ValueError(
            f"a halo window needs at least one consecutive latent frame, a halo of 0 or more and a "
            f"stride of 1 or more, got {keep}, {halo} and {stride}."
        )
    first = max(0, keep.start - halo)
    lead = min(first, 1)
    start = stride * (first - lead)
    stop = 1 + stride * (keep.stop - 1)
    return HaloWindow(pixels=range(start, stop), drop=keep.start - first + lead, keep=keep)


def causal_history(layers: Iterable[tuple[int, int]]) -> int:
    """How many latent frames before a latent frame influence it: the least halo that is exact.

    ``layers`` are those that look back in time, in the order in which they run: how many earlier
    frames each sees, and by how much it then divides the number of frames.
    """
    reach, rate = 0, 1
    for layer in _pairs(layers):
        why = "it is what a layer sees or divides by."
        earlier = whole("a number of earlier frames", layer[0], at_least=0, why=why)
        stride = whole("a stride", layer[1], at_least=1, why=why)
        reach += earlier * rate
        rate *= stride
    return -(-reach // rate)


def _pairs(layers: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    pairs = list(layers) if isinstance(layers, Iterable) else [layers]
    if not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
        raise ValueError(
            f"causal_history takes pairs of earlier frames and a stride, got {shown(layers)}: one "
            f"for each layer that looks back in time. Write [(2, 1), (2, 2)], say."
        )
    return pairs
