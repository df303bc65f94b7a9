"""The scheduler: turns in fair order, calls between them, and an end that waits for the block."""

import threading
import time

import pytest

from longlive_recipes.serve.scheduler import BlockScheduler


class Video:
    """Notes its turns; ready so many times."""

    def __init__(self, name: str, turns: int, order: list[str], gate: threading.Event) -> None:
        self.name, self.left, self._order, self._gate = name, turns, order, gate

    def ready(self) -> bool:
        return self.left > 0

    def turn(self) -> None:
        self._gate.wait(5)
        self.left -= 1
        self._order.append(self.name)


@pytest.fixture
def scheduler():
    made = BlockScheduler()
    made.start()
    yield made
    made.stop()


def test_videos_take_turns_and_those_that_are_not_ready_give_theirs_away(scheduler):
    order: list[str] = []
    gate = threading.Event()
    videos = [Video(name, turns, order, gate) for name, turns in (("a", 3), ("b", 1), ("c", 4))]
    for video in videos:
        scheduler.add(video)
    gate.set()
    while any(video.left for video in videos):
        time.sleep(0.005)
    first = order[0]
    assert sorted(order[:3]) == ["a", "b", "c"] and order.count("a") == 3
    assert order[3:7] == [name for name in "abcabc"["abc".index(first) :] if name != "b"][:2] * 2
    videos[1].left = 1
    scheduler.wake()
    while videos[1].left:
        time.sleep(0.005)
    assert order[-1] == "b" and len(order) == 9


def test_calls_run_on_the_same_thread_between_blocks_and_hand_back_their_errors(scheduler):
    threads = [scheduler.call(threading.get_ident).result(5) for _ in range(2)]
    assert threads[0] == threads[1] != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        scheduler.call(lambda: 1 // 0).result(5)


def test_what_was_removed_gets_no_turn():
    order: list[str] = []
    gate = threading.Event()
    gate.set()
    scheduler, video = BlockScheduler(), Video("a", 5, order, gate)
    scheduler.add(video)
    scheduler.remove(video)
    scheduler.remove(video)
    scheduler.start()
    assert scheduler.call(lambda: 7).result(5) == 7
    scheduler.stop()
    assert order == [] and not scheduler.running
    with pytest.raises(RuntimeError, match="stopped"):
        scheduler.call(lambda: 7)


def test_calls_that_wait_are_carried_out_before_the_end(scheduler):
    gate, order = threading.Event(), []
    scheduler.add(Video("a", 1, order, gate))
    time.sleep(0.05)
    future = scheduler.call(lambda: len(order))
    ending = threading.Thread(target=scheduler.stop)
    ending.start()
    gate.set()
    ending.join(5)
    assert future.result(1) == 1
