"""Rotary positions over time, row and column.

A head's channels are pairs ``(2j, 2j + 1)``, each a plane that turns by ``position * frequency``.
Of ``c = head_dim / 2`` pairs, ``c - 2 * (c // 3)`` turn with time, ``c // 3`` with the row and
``c // 3`` with the column, at frequencies ``theta ** (-j / n)``, j = 0 .. n-1, of the n pairs of an
axis. Rows and columns are whole numbers; time is any real number, so a shot may be moved by an
offset, a clock may run slower, and there is no table that ends. Angles are float64: an hour in,
float32 would be wrong in the fourth digit.

Source: LongLive-2.0 (arXiv 2605.18739), multi-shot RoPE offset; Wan2.2's three-axis RoPE.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from longlive_core.fused import turn


@dataclass(frozen=True, slots=True)
class Rotation:
    """The angles by which tokens are rotated; shared by all layers of a forward.

    Attributes:
        cos: the cosine of each channel's angle, the same for both channels of a pair.
        sin: the factor of each channel's neighbor: minus the sine for the first channel of a pair,
            the sine for the second.
    """

    cos: Float[Tensor, "samples tokens 1 pairs 1"]
    sin: Float[Tensor, "samples tokens 1 pairs 2"]


def frequencies(pairs: int, theta: float, device: torch.device | str) -> Float[Tensor, " pairs"]:
    """Radians a step for each pair of one axis, in float64, fastest first."""
    steps = torch.arange(pairs, dtype=torch.float64, device=device)
    return theta ** (-steps / max(pairs, 1))


def rotation(
    positions: Float[Tensor, "samples frames"],
    grid: tuple[int, int],
    head_dim: int,
    *,
    theta: float = 10000.0,
    t_scale: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> Rotation:
    """The rotation of every token of frames at ``positions`` (in latent frames, offsets included).

    ``grid`` is (rows, columns) of a frame's tokens, which are ordered by frame, then row. Angles of
    the time axis are those of ``positions * t_scale``. They are computed in float64 and returned as
    ``dtype``.
    """
    rows, columns = grid
    samples, frames = positions.shape
    pairs = head_dim // 2
    spatial = pairs // 3
    device = positions.device
    axis = frequencies(spatial, theta, device)
    time = frequencies(pairs - 2 * spatial, theta, device)
    t = (positions.double() * t_scale)[:, :, None] * time
    y = torch.arange(rows, dtype=torch.float64, device=device)[:, None] * axis
    x = torch.arange(columns, dtype=torch.float64, device=device)[:, None] * axis

    def table(of_t: Tensor, of_y: Tensor, of_x: Tensor) -> Tensor:
        whole = (samples, frames, rows, columns, -1)
        parts = (
            of_t[:, :, None, None].expand(whole),
            of_y[None, None, :, None].expand(whole),
            of_x[None, None, None, :].expand(whole),
        )
        return torch.cat([part.to(dtype) for part in parts], dim=-1).flatten(1, 3)[:, :, None]

    sin = table(t.sin(), y.sin(), x.sin())
    return Rotation(
        cos=table(t.cos(), y.cos(), x.cos())[..., None], sin=torch.stack((-sin, sin), dim=-1)
    )


def rotate(
    x: Float[Tensor, "batch tokens heads head_dim"], rotation: Rotation
) -> Float[Tensor, "batch tokens heads head_dim"]:
    """Rotate queries or keys by their tokens' angles.

    Computed in the rotation's precision; the result has the dtype of ``x``. ``rotation`` has as
    many samples as ``x``, or one for all.
    """
    return turn(x, (rotation.cos, rotation.sin))
