"""NVFP4 pages hold the format's own bits, sample by sample and slot by slot."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_core.backends import BackendUnavailable
from longlive_core.nvfp4 import (
    DECODE_PAGES,
    NVFP4PageCodec,
    QuantizeConfig,
    ScaleRule,
    dequantize,
    quantize,
    tensor_amax,
)
from longlive_core.nvfp4.rounding import decode_e2m1
from longlive_core.testing import assert_bitwise_equal
from tests.core.nvfp4.matrices import DTYPES, KINDS, make

CPU = torch.device("cpu")
RULES = (ScaleRule.AMAX_6, ScaleRule.FOUR_OVER_SIX_MSE)
HEADS = ((1, 16), (2, 8), (3, 32), (4, 12), (1, 128), (6, 40))  # heads and head size, 16 n channels


@st.composite
def pages(draw, fewest=1):
    """A page of any kind and type, each sample of another magnitude."""
    heads, head_dim = draw(st.sampled_from(HEADS))
    count, tokens = draw(st.integers(fewest, 3)), draw(st.integers(1, 9))
    seed = draw(st.integers(0, 2**31 - 1))
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=count, max_size=count))
    matrices = [make(kind, tokens, heads * head_dim, seed + i) for i, kind in enumerate(kinds)]
    page = torch.stack([matrix * 10.0**-i for i, matrix in enumerate(matrices)])
    return page.view(count, tokens, heads, head_dim).to(draw(st.sampled_from(DTYPES)))


def read(codec: NVFP4PageCodec, store, slots, page):
    """The pages in these slots, decoded into the middle of a larger workspace."""
    samples, tokens, heads, head_dim = page.shape
    room = torch.full((samples, (len(slots) + 2) * tokens, heads, head_dim), 7.0, dtype=codec.dtype)
    out = room[:, tokens:-tokens]
    (got,) = codec.read([store], slots, [out])
    assert got.data_ptr() == out.data_ptr()
    assert bool((room[:, :tokens] == 7).all() and (room[:, -tokens:] == 7).all())
    return got.clone()


def stored(codec: NVFP4PageCodec, page):
    store = codec.allocate(1, tuple(page.shape), CPU)
    codec.write(store, 0, page)
    return store


@given(pages(), st.sampled_from(RULES), st.sampled_from(DTYPES))
def test_a_page_is_the_format_s_matrix_of_each_sample(page, rule, dtype):
    codec = NVFP4PageCodec(rule=rule, dtype=dtype)
    store = stored(codec, page)
    got = read(codec, store, [0], page)
    for sample, own in enumerate(page):
        rows = own.flatten(1)
        q = quantize(rows, QuantizeConfig(rule=rule), backend="reference")
        for name, want in q.tensors().items():
            have = codec.tensors(store)[name][0, sample]
            assert_bitwise_equal(have, want, f"{name} of sample {sample}")
        want = dequantize(q, dtype, backend="reference").view(own.shape)
        assert_bitwise_equal(got[sample], want, f"sample {sample}")


@given(pages(fewest=2), st.sampled_from(RULES))
def test_codes_do_not_depend_on_batch_mates(page, rule):
    codec = NVFP4PageCodec(rule=rule)
    together = codec.tensors(stored(codec, page))
    for sample in range(len(page)):
        alone = codec.tensors(stored(codec, page[sample : sample + 1]))
        for name, tensor in alone.items():
            assert_bitwise_equal(together[name][:, sample : sample + 1], tensor, name)


@given(pages(), st.permutations(range(4)), st.integers(1, 4))
def test_slots_do_not_disturb_each_other(page, order, count):
    """Written in any order, read in any order: each slot gives its own page."""
    codec = NVFP4PageCodec(dtype=torch.float32)
    store = codec.allocate(4, tuple(page.shape), CPU)
    scaled = {slot: page * (slot + 1) for slot in order}
    for slot, own in scaled.items():
        codec.write(store, slot, own)
    codec.write(store, order[0], page)  # once more, something else
    scaled[order[0]] = page
    slots = list(order)[::-1][:count]
    want = [read(codec, stored(codec, scaled[slot]), [0], page) for slot in slots]
    assert_bitwise_equal(read(codec, store, slots, page), torch.cat(want, dim=1))


@given(pages(), st.sampled_from(RULES))
def test_writing_what_was_read_changes_nothing(page, rule):
    """For blocks whose scale is a normal E4M3 number; a code of -0 comes back as 0.

    An adaptive rule may choose the other of two ways to say the same: 6 times 96 is 4 times 144.
    """
    codec = NVFP4PageCodec(rule=rule, dtype=torch.float32)
    first = stored(codec, page)
    second = stored(codec, read(codec, first, [0], page))
    scales, again = (store["block_scales"].float() for store in (first, second))
    whole = scales >= 2.0**-6
    old, new = (
        decode_e2m1(s["codes"].flatten(0, 2)).view(*scales.shape, 16) for s in (first, second)
    )
    assert torch.equal((new * again[..., None])[whole], (old * scales[..., None])[whole])
    if not rule.adaptive:
        assert torch.equal(again[whole], scales[whole])


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("head_dim", [16, 24])
def test_codes_do_not_depend_on_ranks_when_amax_is_reduced(ranks, head_dim):
    generator = torch.Generator().manual_seed(0)
    page = torch.randn(2, 5, 8, head_dim, generator=generator)
    whole = stored(NVFP4PageCodec(), page)
    parts = page.chunk(ranks, dim=2)
    largest = torch.stack([tensor_amax(part, 2) for part in parts]).amax(0)
    asked = []

    def reduce_amax(amax):
        asked.append(amax)
        return largest

    codec = NVFP4PageCodec(reduce_amax=reduce_amax)
    stores = [stored(codec, part) for part in parts]
    for own, part in zip(asked, parts, strict=True):
        assert_bitwise_equal(own, tensor_amax(part, 2))
    for name in ("codes", "block_scales"):
        joined = torch.cat([store[name].view(torch.uint8) for store in stores], dim=-1)
        assert_bitwise_equal(joined, whole[name].view(torch.uint8), name)
    for store in stores:
        assert_bitwise_equal(store["amax"], whole["amax"])


def test_the_edges_are_defined():
    page = torch.randn(6, 3, 2, 16)
    page[0] = 0
    page[1] *= 1e30
    page[2] *= 1e-30
    page[3, 1, 1, 5] = torch.nan
    page[4, 2, 0, 3] = torch.inf
    for rule in RULES:
        codec = NVFP4PageCodec(rule=rule, dtype=torch.float32)
        got = read(codec, stored(codec, page), [0], page)
        assert bool((got[0] == 0).all())
        for sample in (1, 2, 5):
            largest = page[sample].abs().max()
            assert bool(((got[sample] - page[sample]).abs() <= largest / 5).all())
        assert bool(got[3:5].isnan().all())


@given(pages(), st.integers(1, 4))
def test_a_page_takes_the_bytes_it_says(page, slots):
    codec, shape = NVFP4PageCodec(), tuple(page.shape)
    store = codec.allocate(slots, shape, CPU)
    taken = sum(tensor.nbytes for tensor in codec.tensors(store).values())
    assert taken == slots * codec.page_bytes(shape)


@pytest.mark.parametrize(("heads", "head_dim"), [(3, 8), (1, 100), (2, 3)])
def test_channels_that_are_no_whole_blocks_are_refused(heads, head_dim):
    codec = NVFP4PageCodec()
    message = (
        rf"cannot keep {heads} heads of {head_dim}: 16 neighboring channels share.* "
        rf"{heads * head_dim} channels are no multiple of 16. Use Float8PageCodec"
    )
    with pytest.raises(ValueError, match=message):
        codec.allocate(1, (1, 4, heads, head_dim), CPU)
    with pytest.raises(ValueError, match=message):
        codec.page_bytes((1, 4, heads, head_dim))


def test_a_type_that_is_not_decoded_to_is_refused():
    with pytest.raises(ValueError, match=r"dtype=torch.float64\).*float32, bfloat16 or float16"):
        NVFP4PageCodec(dtype=torch.float64)


def test_a_named_backend_runs_or_raises():
    codec = NVFP4PageCodec(backend="triton")
    with pytest.raises(BackendUnavailable, match="nvfp4.decode_pages.*triton.*needs a CUDA device"):
        codec.allocate(1, (1, 4, 1, 16), CPU)
    receipt = NVFP4PageCodec().receipt(CPU)
    assert receipt.backend == "reference"
    assert "not triton: it needs a CUDA device" in str(receipt)
    assert [backend.name for backend in DECODE_PAGES.backends] == ["triton", "reference"]


def test_a_codec_says_what_its_bytes_mean():
    assert NVFP4PageCodec().to_dict() == {
        "name": "nvfp4",
        "rule": "four_over_six_mse",
        "bound": 256,
        "dtype": "bfloat16",
    }
    assert NVFP4PageCodec(reduce_amax=torch.abs).to_dict() == NVFP4PageCodec().to_dict()


def test_pages_of_wider_numbers_are_refused():
    codec = NVFP4PageCodec()
    store = codec.allocate(1, (1, 2, 2, 16), CPU)
    with pytest.raises(ValueError, match="got torch.float64.*Convert the tensor first"):
        codec.write(store, 0, torch.ones(1, 2, 2, 16).double())


def test_a_page_of_no_tokens_holds_nothing():
    codec = NVFP4PageCodec()
    store = codec.allocate(1, (2, 0, 2, 16), CPU)
    codec.write(store, 0, torch.zeros(2, 0, 2, 16))
    assert codec.read([store], [0], [torch.zeros(2, 0, 2, 16)])[0].numel() == 0
