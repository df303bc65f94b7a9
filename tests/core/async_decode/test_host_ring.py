"""Copies through a ring: the same bytes in any order of taking, and no more memory than it has."""

import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longlive_core.async_decode import HostRing
from longlive_core.testing import assert_bitwise_equal

CPU = torch.device("cpu")


@given(st.integers(1, 4), st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=12))
def test_frames_are_right_whatever_is_taken_when(slots, copies):
    """Of several sizes and types; some are taken at once, the others at the end, backwards."""
    ring, waiting = HostRing(slots, CPU), []
    for number, (size, at_once) in enumerate(copies):
        dtype = (torch.uint8, torch.float32)[number % 2]
        frames = torch.arange(size * 6).view(size, 2, 3).to(dtype) + number
        copy, want = ring.start(frames), frames.clone()
        frames.zero_()  # it has left
        if at_once:
            assert_bitwise_equal(copy.take(), want)
        else:
            waiting.append((copy, want))
        assert ring.made <= slots
    for copy, want in reversed(waiting):
        assert_bitwise_equal(copy.take(), want)
        assert copy.take() is copy.take()


def test_what_was_taken_is_not_changed_by_later_copies():
    ring = HostRing(1, CPU)
    first = ring.start(torch.full((4,), 1)).take()
    second = ring.start(torch.full((4,), 2)).take()
    assert first.tolist() == [1] * 4 and second.tolist() == [2] * 4
    assert first.untyped_storage().nbytes() == first.nbytes


def test_a_piece_is_used_again():
    ring = HostRing(3, CPU)
    for _ in range(5):
        ring.start(torch.zeros(8)).take()
    assert ring.made == 1


def test_one_thread_copies_while_another_takes():
    ring, queue, taken = HostRing(2, CPU), [], []
    more = threading.Semaphore(0)

    def take():
        for _ in range(40):
            assert more.acquire(timeout=60)
            taken.append(queue[len(taken)].take())

    worker = threading.Thread(target=take)
    worker.start()
    for number in range(40):
        queue.append(ring.start(torch.full((100,), number)))
        more.release()
    worker.join(60)
    assert [int(frames[0]) for frames in taken] == list(range(40))
    assert all((frames == frames[0]).all() for frames in taken) and ring.made <= 2


def test_a_ring_without_slots_is_refused():
    with pytest.raises(ValueError, match="HostRing's slots is at least 1, got 0"):
        HostRing(0, CPU)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="only copies from a GPU are pinned")
def test_copies_from_a_gpu_pass_through_pinned_memory_without_waiting():
    ring, copies, wanted = HostRing(2, torch.device("cuda")), [], []
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for number in range(5):
            torch.cuda._sleep(10_000_000)
            frames = torch.full((1 << 20,), number, dtype=torch.uint8, device="cuda")
            copies.append(ring.start(frames))
            wanted.append(number)
            if number == 1:
                assert not stream.query()  # both copies are only launched
    for copy, number in zip(copies, wanted, strict=True):
        assert copy.take().eq(number).all() and not copy.take().is_pinned()
    assert ring.made == 2
