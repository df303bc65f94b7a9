"""How rows are spread over threads: whole rows, and wide ones without idle threads."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("triton", reason="triton is there on x86-64 Linux only")

from longlive_core.fused.choice import WIDEST
from longlive_core.fused.kernels.launch import THREADS, VALUES_PER_PROGRAM, tile


@given(st.integers(1, WIDEST), st.booleans())
def test_a_program_holds_whole_rows(dim, encodes):
    width, rows, warps = tile(dim, encodes=encodes)
    assert dim <= width < 2 * dim
    assert rows == max(1, VALUES_PER_PROGRAM // width)
    assert 1 <= warps <= 16
    assert all(number & (number - 1) == 0 for number in (width, rows, warps))


@given(st.integers(1, 32), st.booleans(), st.sampled_from([64, 128]))
def test_the_padding_of_a_wide_row_is_of_whole_threads_or_as_many_warps_as_ever(
    parts, encodes, most
):
    at_once = THREADS * (16 if encodes else 8)
    dim = parts * at_once
    width, rows, warps = tile(dim, encodes=encodes, most=most)
    usual = min(16, rows * width // 512)
    assert warps <= usual
    if rows == 1 and dim < width and warps < usual:
        assert dim % (warps * at_once) == 0
        assert width // (THREADS * warps) <= most


def test_the_rows_of_the_large_model():
    assert tile(3072) == (4096, 1, 4)
    assert tile(3072, encodes=True) == (4096, 1, 2)
    assert tile(14336, encodes=True, most=128) == (16384, 1, 4)
    assert tile(14336, encodes=True) == (16384, 1, 16)
    assert tile(13 * 256) == tile(4096) == (4096, 1, 8)
    with pytest.raises(ValueError, match="rows of at most 16384 numbers, got 16385"):
        tile(WIDEST + 1)
