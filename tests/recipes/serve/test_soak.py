"""Several sessions at once: none loses or changes a block, answers are soon, memory is flat."""

import hashlib

import pytest

from tests.recipes.serve.servers import made_alone, process
from tests.recipes.serve.soak import PROMPTS, Soaked, soak


def watched(tmp_path, *, sessions: int, seconds: float, every: int) -> Soaked:
    """Sessions for a while; each block is that of the same seed and steering, made alone."""
    options = ("--sessions", str(sessions), "--snapshot-mb", "64")
    with process(tmp_path / "served", *options) as (running, client):
        found = soak(
            str(client.base_url), running.pid, sessions=sessions, seconds=seconds, every=every
        )
        for one in found.seen:
            count = min(len(one.blocks), 60)  # making them takes as long again
            _, alone = made_alone(tmp_path, PROMPTS[0], count, seed=one.seed, events=one.events)
            assert one.blocks[:count] == [hashlib.sha256(block).hexdigest() for block in alone]
            assert len(set(one.blocks)) == len(one.blocks)
            client.do(one.name, "close")
            assert client.session(one.name)["blocks"] >= len(one.blocks)
        slow, fast = found.seen[-1], found.seen[:-1]
        assert len(slow.blocks) <= min(len(one.blocks) for one in fast) or seconds < 10
    assert found.rounds <= 2 + 1  # and the block that was being made when the prompt came
    return found


def test_three_sessions_share_the_model(tmp_path):
    found = watched(tmp_path, sessions=3, seconds=4, every=5)
    assert found.answer_95 < 1.0  # in a test among others; alone it takes milliseconds


@pytest.mark.slow
def test_eight_sessions_for_five_minutes(tmp_path):
    found = watched(tmp_path, sessions=8, seconds=300, every=20)
    print(f"answer {found.answer_95:.4f} s, rounds {found.rounds}, memory {found.memory[::30]}")
    assert found.answer_95 < 0.2
    early, late = found.memory[60:120], found.memory[-60:]
    growth = sorted(late)[30] - sorted(early)[30]
    assert growth < 48 << 20, f"memory grew by {growth / 2**20:.0f} MiB"
