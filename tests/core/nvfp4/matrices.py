"""Matrices that quantizers find hard: draw the shape, the kind and a seed, not the numbers."""

import torch
from hypothesis import strategies as st
from torch import Tensor

from longlive_core.nvfp4 import QuantizeConfig, ScaleRule

KINDS = ("normal", "zeros", "constant", "one outlier", "zero block", "ties", "row scales", "sparse")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def make(kind: str, rows: int, cols: int, seed: int = 0) -> Tensor:
    """A float32 matrix of this kind."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, cols, generator=generator)
    match kind:
        case "zeros":
            x.zero_()
        case "constant":
            x.fill_(0.37)
        case "one outlier":
            x[0, 0] = 1e4
        case "zero block":
            x[0, :16] = 0
        case "ties":
            x = (x * 4).round() / 4
        case "row scales":
            x *= torch.logspace(-7, 0, rows)[:, None]
        case "sparse":
            x *= torch.rand(rows, cols, generator=generator) < 0.1
    return x


@st.composite
def matrices(draw, max_rows=40, max_cols=80, step=1, dtypes=DTYPES):
    """A matrix with columns divisible by ``step``, of any kind and of these types."""
    rows = draw(st.integers(1, max_rows))
    cols = step * draw(st.integers(1, max_cols // step))
    kind, seed = draw(st.sampled_from(KINDS)), draw(st.integers(0, 2**31 - 1))
    return make(kind, rows, cols, seed).to(draw(st.sampled_from(dtypes)))


CONFIGS = tuple(
    QuantizeConfig(rule=rule, bound=bound, block=block)
    for rule in ScaleRule
    for bound in rule.bounds
    for block in ((1, 16), (16, 16))
)


def configs():
    """Any rule with any bound that it takes, in either block shape, rounding to nearest."""
    return st.sampled_from(CONFIGS)
