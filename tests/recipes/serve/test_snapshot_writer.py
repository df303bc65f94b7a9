"""Snapshots are written while blocks are made: in order, one waiting at most, errors told."""

import errno
import threading
from pathlib import Path

import pytest

from longlive_models.stream_snapshot import SnapshotSummary, StreamSnapshot
from longlive_models.video.files import read_video
from longlive_recipes.serve.snapshot_writer import SnapshotWriter
from tests.recipes.serve.servers import made_alone, server, until

PROMPT = "a red circle"


@pytest.fixture
def gate():
    """Closed at first; opened at the end whatever happens."""
    gate = threading.Event()
    yield gate
    gate.set()


def test_one_is_written_one_waits_and_who_takes_a_third_waits_for_room(gate):
    writer, order, taken = SnapshotWriter(), [], threading.Event()

    def task(number):
        return lambda: (gate.wait(10), order.append(number))

    first, second = writer.write(task(1)), writer.write(task(2))
    rest = []

    def third():
        rest.append(writer.write(task(3)))
        taken.set()

    threading.Thread(target=third).start()
    assert not taken.wait(0.2) and order == [] and not first.done() and not second.done()
    gate.set()
    assert taken.wait(5)
    for future in (first, second, *rest):
        assert future.result(5) is None
    assert order == [1, 2, 3]
    until(lambda: not [one for one in threading.enumerate() if one.name == "longlive-snapshot"])


def test_an_error_is_handed_back_and_others_are_written():
    done: list[int] = []
    writer = SnapshotWriter(lambda: done.append(1))
    failing, good = writer.write(lambda: 1 // 0), writer.write(lambda: None)
    assert isinstance(failing.exception(5), ZeroDivisionError) and good.result(5) is None
    until(lambda: len(done) == 2)
    assert all(writer.write(lambda: None).result(5) is None for _ in range(5))


@pytest.fixture
def slow_disk(gate, monkeypatch):
    """Snapshots are not written until the gate is open."""
    save = StreamSnapshot.save

    def saved(self, path):
        assert gate.wait(20)
        return save(self, path)

    monkeypatch.setattr(StreamSnapshot, "save", saved)
    return gate


def test_blocks_are_made_and_steered_while_a_snapshot_is_written(client, slow_disk, tmp_path):
    name = client.begin(PROMPT, seed=3)["id"]
    found = [client.block(name, block) for block in range(4)]  # one is due after two
    assert client.session(name)["snapshots"] == []
    event = client.do(name, "prompt", text="a blue square", memory="cut")["event"]
    address = f"/v1/sessions/{name}/blocks/4"
    assert client.get(address, params={"wait": 0.3}).status_code == 204  # the next one is due
    slow_disk.set()
    found += [client.block(name, block) for block in (4, 5)]
    assert event["block"] == 4
    assert found == made_alone(tmp_path, PROMPT, 6, seed=3, events=[event])[1]
    until(lambda: client.session(name)["snapshots"][:2] == [2, 4])


def test_the_end_of_a_session_waits_for_its_snapshot(client, slow_disk):
    name = client.begin(PROMPT)["id"]
    client.block(name, 3)
    closed = []
    closing = threading.Thread(target=lambda: closed.append(client.do(name, "close")))
    closing.start()
    assert not closed and client.session(name)["state"] != "ended"
    slow_disk.set()
    closing.join(20)
    assert closed[0]["state"] == "ended" and 2 in closed[0]["snapshots"]


@pytest.fixture
def full_disk(monkeypatch):
    """No snapshot can be written."""

    def saved(self, path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(StreamSnapshot, "save", saved)


def test_a_full_disk_is_told_to_the_session(client, full_disk, tmp_path):
    name = client.begin(PROMPT)["id"]
    until(lambda: client.session(name)["state"] == "paused")
    taken = client.post(f"/v1/sessions/{name}/snapshot")
    assert taken.status_code == 507 and "No space left on device" in taken.text
    assert client.session(name)["state"] == "paused"
    client.block(name, 1)  # now one is due
    until(lambda: client.session(name)["state"] == "failed")  # though nobody watches
    failed = client.session(name)
    assert failed["error"] == "the file could not be written: No space left on device."
    assert failed["has_record"] and failed["snapshots"] == []
    data = client.get(f"/v1/sessions/{name}/video.mp4").content
    (tmp_path / "a.mp4").write_bytes(data)
    assert len(read_video(tmp_path / "a.mp4")[0]) == failed["frames"]
    assert str(tmp_path) not in str(failed)
    other = client.begin(PROMPT, seconds=0.5)["id"]  # without a snapshot nothing is missed
    until(lambda: client.session(other)["state"] == "ended")


def test_what_is_written_meanwhile_is_what_was_taken(tmp_path, offers):
    folder = tmp_path / "served"
    with server(folder, offers=offers) as client:
        name = client.begin(PROMPT, seed=5)["id"]
        client.block(name, 5)
        until(lambda: client.session(name)["snapshots"][:3] == [2, 4, 6])
        kept = sorted((folder / name / "snapshots").iterdir())
        assert [path.suffix for path in kept] == [".snapshot"] * len(kept)
        assert [SnapshotSummary.read(path).block for path in kept] == [2, 4, 6, 8][: len(kept)]
        assert all(holds(path) for path in kept)


def holds(path: Path) -> bool:
    """Whether a snapshot is whole: its number is that of its name."""
    return StreamSnapshot.load(path).generator.cache.blocks >= int(path.name[:7])
