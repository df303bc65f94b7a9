"""Pages of eight bits, E4M3 and integers: error bounds, independence, edges, any size."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_core import float8
from longlive_core.backends import BackendUnavailable
from longlive_core.eight_bit.page_codec import EightBitPageCodec
from longlive_core.float8 import Float8PageCodec
from longlive_core.kv_cache import Int8PageCodec
from longlive_core.testing import assert_bitwise_equal

CPU = torch.device("cpu")
KINDS = (Float8PageCodec, Int8PageCodec)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@st.composite
def pages(draw):
    """A page of any size, every token and head of another magnitude."""
    shape = tuple(draw(st.integers(1, most)) for most in (3, 6, 3, 70))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31 - 1)))
    x = torch.randn(shape, generator=generator)
    return (x * 2.0 ** torch.randint(-6, 7, shape[:3], generator=generator)[..., None]).to(
        draw(st.sampled_from(DTYPES))
    )


def stored(codec: EightBitPageCodec, page):
    store = codec.allocate(1, tuple(page.shape), CPU)
    codec.write(store, 0, page)
    return store


def read(codec: EightBitPageCodec, stores, slots, page):
    samples, tokens, heads, head_dim = page.shape
    room = torch.empty(samples, (len(slots) + 1) * tokens, heads, head_dim, dtype=codec.dtype)
    out = room[:, : len(slots) * tokens]
    return [got.clone() for got in codec.read(stores, slots, [out])]


@given(pages())
def test_no_number_is_further_off_than_half_a_step(page):
    exact = page.double()
    largest = exact.abs().amax(-1, keepdim=True)
    allowed = {
        # a 16th of a number is half of E4M3's step; below 2**-6 steps are 2**-9 of the scale
        Float8PageCodec: torch.maximum(exact.abs() / 16, largest / 448 * 2.0**-10),
        Int8PageCodec: largest / 254,
    }
    for kind, most in allowed.items():
        codec = kind(dtype=torch.float32)
        (got,) = read(codec, [stored(codec, page)], [0], page)
        assert bool(((got.double() - exact).abs() <= most * (1 + 1e-5)).all()), kind


@given(pages(), st.sampled_from(DTYPES))
def test_fp8_pages_are_rows_of_the_fp8_format(page, dtype):
    codec = Float8PageCodec(dtype=dtype)
    store = stored(codec, page)
    q = float8.quantize(page.flatten(0, 2))
    assert_bitwise_equal(store["codes"].flatten(0, 3), q.codes)
    assert_bitwise_equal(store["scales"].flatten(), q.scales.flatten())
    (got,) = read(codec, [store], [0], page)
    assert_bitwise_equal(got, float8.dequantize(q, dtype).view(page.shape))


@pytest.mark.parametrize("kind", KINDS)
@given(page=pages(), data=st.data())
def test_every_token_and_head_is_encoded_alone(kind, page, data):
    codec = kind()
    whole = codec.tensors(stored(codec, page))
    sample, token, head = (data.draw(st.integers(0, size - 1)) for size in page.shape[:3])
    cut = (slice(sample, sample + 1), slice(token, token + 1), slice(head, head + 1))
    alone = codec.tensors(stored(codec, page[cut]))
    for name, tensor in alone.items():
        assert_bitwise_equal(whole[name][(slice(None), *cut)], tensor, name)


@pytest.mark.parametrize("kind", KINDS)
@given(page=pages(), order=st.permutations(range(3)), count=st.integers(1, 3))
def test_stores_and_slots_do_not_disturb_each_other(kind, page, order, count):
    codec = kind(dtype=torch.float32)
    stores = [codec.allocate(3, tuple(page.shape), CPU) for _ in range(2)]
    for slot in order:
        for sign, store in zip((1, -1), stores, strict=True):
            codec.write(store, slot, page * sign * 2.0**slot)
    samples, tokens, heads, head_dim = page.shape
    outs = [torch.empty(samples, count * tokens, heads, head_dim) for _ in stores]
    codec.read(stores, list(order)[:count], outs)
    (once,) = read(codec, [stored(codec, page)], [0], page)
    for sign, out in zip((1, -1), outs, strict=True):
        want = torch.cat([once * sign * 2.0**slot for slot in list(order)[:count]], dim=1)
        assert torch.equal(out, want)


@pytest.mark.parametrize("kind", KINDS)
def test_the_edges_are_defined(kind):
    page = torch.randn(1, 6, 1, 8)
    page[0, 0] = 0
    page[0, 1] *= 1e37
    page[0, 2] *= 1e-41
    page[0, 3, 0, 5] = torch.nan
    page[0, 4, 0, 3] = -torch.inf
    codec = kind(dtype=torch.float32)
    (got,) = read(codec, [stored(codec, page)], [0], page)
    assert bool((got[0, 0] == 0).all())
    assert bool(((got[0, 1] - page[0, 1]).abs() <= page[0, 1].abs().max() / 16).all())
    assert bool((got[0, 2].abs() <= 1e-39).all())
    assert bool(got[0, 3:5].isnan().all())
    assert bool(got[0, 5].isfinite().all())


@pytest.mark.parametrize("kind", KINDS)
@given(page=pages(), slots=st.integers(1, 4))
def test_a_page_takes_the_bytes_it_says(kind, page, slots):
    codec, shape = kind(), tuple(page.shape)
    store = codec.allocate(slots, shape, CPU)
    taken = sum(tensor.nbytes for tensor in codec.tensors(store).values())
    assert taken == slots * codec.page_bytes(shape)


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_is_refused(kind):
    with pytest.raises(ValueError, match=rf"{kind.__name__}\(dtype=torch.int8\).*bfloat16"):
        kind(dtype=torch.int8)
    with pytest.raises(BackendUnavailable, match="decode_byte_pages.*needs a CUDA device"):
        kind(backend="triton").allocate(1, (1, 4, 1, 16), CPU)
    assert kind().receipt(CPU).backend == "reference"


def test_a_codec_says_what_its_bytes_mean():
    assert Float8PageCodec().to_dict() == {"name": "fp8", "dtype": "bfloat16"}
    assert Int8PageCodec(dtype=torch.float32).to_dict() == {"name": "int8", "dtype": "float32"}
