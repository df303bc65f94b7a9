"""Blocks that visit a device compute what they compute there, whenever the copies run."""

import gc
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from longlive_core.block_offload import ALIGNMENT, SLOTS, AtOnce, BlockOffload
from longlive_core.nvfp4 import convert_linears
from tests.live_bytes import LiveBytes

CPU = torch.device("cpu")


class Late:
    """A lane whose copies run at the last moment: when something waits for them."""

    def __init__(self) -> None:
        self.waiting: list[list[Callable[[], None]]] = []
        self.copied = 0

    def mark(self) -> list:
        return []

    def copy(self, copies: Callable[[], None], after: list) -> list:
        mark = [copies]
        self.waiting.append(mark)
        return mark

    def wait(self, mark: list) -> None:
        while any(mark is one for one in self.waiting):
            [copies] = self.waiting.pop(0)  # a stream keeps its order
            copies()
            self.copied += 1


def made(count: int, width: int = 16, seed: int = 0) -> list[nn.Module]:
    """Blocks with a parameter, a buffer and a bias, none of them alike."""
    torch.manual_seed(seed)
    blocks: list[nn.Module] = []
    for _ in range(count):
        block = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        block.register_buffer("shift", torch.randn(()))
        block.requires_grad_(False)
        blocks.append(block)
    return blocks


def passed(blocks: list[nn.Module], x: Tensor) -> Tensor:
    for block in blocks:
        x = block(x) + block.get_buffer("shift")
    return x


@given(
    count=st.integers(1, 6),
    passes=st.integers(1, 3),
    late=st.booleans(),
    again=st.booleans(),
    page_locked=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_a_pass_has_the_bits_of_blocks_that_stay(count, passes, late, again, page_locked):
    x = torch.randn(3, 16)
    wanted = passed(made(count), x)
    blocks = made(count)
    lane = Late() if late else AtOnce()
    BlockOffload(blocks, CPU, page_locked=page_locked, again=again, lane=lane)
    for _ in range(passes):
        assert torch.equal(passed(blocks, x), wanted)


def test_blocks_in_host_memory_are_as_they_were():
    blocks, before = made(4), made(4)
    offload = BlockOffload(blocks, CPU)
    passed(blocks, torch.randn(2, 16))
    for block, old in zip(blocks, before, strict=True):
        assert block.state_dict().keys() == old.state_dict().keys()
        for name, tensor in block.state_dict().items():
            assert torch.equal(tensor, old.state_dict()[name])
    with offload.visit(2):
        there = blocks[2][0].weight.data_ptr()
        assert torch.equal(blocks[2][0].weight, before[2][0].weight)
    assert blocks[2][0].weight.data_ptr() != there


def test_tensors_of_odd_sizes_lie_where_the_allocator_would_put_them():
    block = nn.Module()
    for name, tensor in (("odd", torch.arange(3, dtype=torch.uint8)), ("wide", torch.randn(5))):
        block.register_buffer(name, tensor)
    block.register_buffer("wider", torch.randn(2, dtype=torch.float64))
    before = {name: tensor.clone() for name, tensor in block.named_buffers()}
    offload = BlockOffload([block], CPU)
    with offload.visit(0):
        for name, there in block.named_buffers():
            assert torch.equal(there, before[name])
            assert there.storage_offset() * there.itemsize % ALIGNMENT == 0


def test_four_bits_stay_four_bits():
    x = torch.randn(3, 32)
    plain, blocks = made(3, 32), made(3, 32)
    for model in (*plain, *blocks):
        convert_linears(model)
    wanted = passed(plain, x)
    BlockOffload(blocks, CPU, lane=Late())
    assert torch.equal(passed(blocks, x), wanted)


def test_the_device_holds_two_blocks_and_gives_them_back():
    blocks = made(6, 64)
    size = sum(t.nbytes for t in blocks[0].state_dict().values())
    x = torch.randn(1, 64)
    for again, left in ((True, SLOTS), (False, 0)):
        with LiveBytes() as made_on_host:
            offload = BlockOffload(blocks, CPU, again=again)
        assert 6 * size <= made_on_host.now <= 2 * 6 * size
        assert SLOTS * size <= offload.device_bytes <= SLOTS * size * 1.1
        with LiveBytes() as visits:
            passed(blocks, x)
            gc.collect()
            assert visits.now == pytest.approx(left * size, abs=0.1 * size + 4096)
        assert visits.peak <= offload.device_bytes + 4096
        offload.end()


def test_each_block_is_copied_once_a_pass():
    lane, blocks = Late(), made(5)
    BlockOffload(blocks, CPU, lane=lane)
    x = torch.randn(2, 16)
    passed(blocks, x)
    assert lane.copied == 5 and len(lane.waiting) == 1  # block 0 is on its way
    passed(blocks, x)
    assert lane.copied == 10
    two = made(2)
    BlockOffload(two, CPU, lane=(lane := Late()))
    for _ in range(4):
        passed(two, x)
    assert lane.copied == 2, "two blocks stay where they are"


def test_a_pass_that_is_the_last_fetches_no_block_for_another():
    blocks, lane = made(5), Late()
    BlockOffload(blocks, CPU, again=False, lane=lane)
    for number in (1, 2):
        passed(blocks, torch.randn(2, 16))
        assert lane.copied == 5 * number and not lane.waiting


class Counted(AtOnce):
    """A lane whose marks are counted, and which notes what each copy waits for."""

    def __init__(self) -> None:
        self.marks = 0
        self.afters: list[int] = []

    def mark(self) -> int:
        self.marks += 1
        return self.marks

    def copy(self, copies: Callable[[], None], after: int) -> None:
        self.afters.append(after)
        copies()


def test_a_copy_waits_until_the_block_in_its_place_has_computed():
    blocks, lane = made(4), Counted()
    BlockOffload(blocks, CPU, lane=lane)
    passed(blocks, torch.randn(2, 16))
    assert lane.marks == SLOTS + 4  # when the places are made, and when each block is left
    assert lane.afters == [1, 2, 3, 4, 5]  # blocks 0 and 1; then 2, 3 and 0 where 0, 1 and 2 were


def test_a_block_that_fails_is_left_and_the_next_pass_is_right():
    blocks = made(4)
    x = torch.randn(2, 16)
    wanted = passed(blocks, x)
    BlockOffload(blocks, CPU, lane=Late())
    home = blocks[1][0].weight.data_ptr()
    with pytest.raises(RuntimeError):
        blocks[1](torch.randn(2, 5))
    assert blocks[1][0].weight.data_ptr() == home
    assert torch.equal(passed(blocks, x), wanted)


def test_what_ends_visits_no_more():
    blocks = made(2)
    x = torch.randn(2, 16)
    wanted = passed(blocks, x)
    BlockOffload(blocks, CPU).end()
    place = blocks[0][0].weight.data_ptr()
    with LiveBytes() as made_then:
        assert torch.equal(passed(blocks, x), wanted)
    assert blocks[0][0].weight.data_ptr() == place
    assert made_then.peak < 16 * 32 * 4 * 4


def test_what_ends_gives_no_memory_back_that_a_copy_still_writes_to():
    lane = Late()
    offload = BlockOffload(made(3), CPU, lane=lane)
    offload.end()  # before the first pass there is nothing to wait for
    offload = BlockOffload(blocks := made(3), CPU, lane=lane)
    passed(blocks, torch.randn(2, 16))
    assert len(lane.waiting) == 1  # block 0 is on its way
    offload.end()
    assert not lane.waiting


def test_nothing_to_offload_is_refused():
    with pytest.raises(ValueError, match="there are no blocks to offload"):
        BlockOffload([], CPU)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="copies on a stream of their own")
def test_a_gpu_computes_the_same_while_blocks_are_fetched():
    device = torch.device("cuda")
    x = torch.randn(512, 1024, device=device)
    stay = [block.to(device) for block in made(7, 1024)]
    wanted = passed(stay, x)
    blocks = made(7, 1024)
    offload = BlockOffload(blocks, device)
    assert all(p.device.type == "cpu" and p.is_pinned() for b in blocks for p in b.parameters())
    torch.cuda.synchronize()
    for _ in range(20):
        assert torch.equal(passed(blocks, x), wanted)
    assert offload.device_bytes < 3 * sum(p.nbytes for p in blocks[0].parameters())
