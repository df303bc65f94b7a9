"""Servers that end: by a signal sessions are put aside, by a kill no file is lost; all go on."""

import random
import shutil
import signal
import threading
import time
import warnings
from functools import partial
from pathlib import Path

import httpx
import pytest

from longlive_models.video.files import CutShort, read_video
from longlive_recipes.serve.saved import FILE, read_saved
from tests.models.tiny_pipeline import FPS
from tests.recipes.serve.servers import Client, made_alone, process, server, until

PROMPT, OTHER = "a red circle", "a blue square"


def test_sessions_that_were_open_are_offered_and_go_on_bit_for_bit(tmp_path, offers):
    folder = tmp_path / "served"
    with server(folder, offers=offers) as client:
        name = client.begin(PROMPT, seed=4)["id"]
        client.block(name, 2)
        event = client.do(name, "prompt", text=OTHER, memory="recache")["event"]
        ended = client.begin(PROMPT, seconds=1)["id"]
        client.block(ended, 1)
        until(lambda: client.session(ended)["state"] == "ended")
        empty = client.begin(PROMPT, steps=60)["id"]
        queued = client.post("/v1/videos", json={"prompt": PROMPT, "seconds": 3}).json()["id"]
    record = (folder / name / "video.json").read_text()
    assert '"interrupted": true' in record
    with server(folder, offers=offers) as client:
        states = {one["id"]: one["state"] for one in client.get("/v1/sessions").json()["data"]}
        assert states == {name: "stopped", ended: "ended", empty: "stopped"}
        steered = client.post(f"/v1/sessions/{name}/prompt", json={"text": OTHER})
        assert steered.status_code == 409 and "resume it first" in steered.text
        assert client.do(name, "resume")["events"] == [event]
        assert client.post(f"/v1/sessions/{name}/resume").status_code == 409
        last = event["block"] + 2
        found = [client.block(name, block) for block in range(last + 1)]
        assert found == made_alone(tmp_path, PROMPT, last + 1, seed=4, events=[event])[1]
        client.do(empty, "resume")
        assert client.block(empty, 0)
        job = f"/v1/videos/{queued}"  # jobs need nobody to go on
        until(lambda: client.get(job).json()["status"] == "completed")
        (tmp_path / "job.mp4").write_bytes(client.get(f"{job}/content").content)
        assert len(read_video(tmp_path / "job.mp4")[0]) == 3 * FPS


def test_another_server_of_the_same_folder_is_refused(tmp_path, offers):
    folder = tmp_path / "served"
    with (
        server(folder, offers=offers),
        pytest.raises(ValueError, match="used by another server"),
        server(folder, offers=offers),
    ):
        pass


def test_what_a_kill_cut_off_is_mended(tmp_path, offers):
    folder = tmp_path / "served"
    with server(folder, offers=offers) as client:
        name = client.begin(PROMPT, seed=4)["id"]
        whole = client.block(name, 2)
        until(lambda: client.session(name)["state"] == "paused")
    video = folder / name / "video.mp4"
    length = video.stat().st_size
    with open(video, "ab") as file:
        file.write(whole[:-5])  # a block that was not written whole
    (folder / name / "snapshots" / ".0000002-0000002.snapshot.17.new").write_bytes(b"x")
    newest = max((folder / name / "snapshots").glob("*.snapshot"))
    newest.write_bytes(newest.read_bytes()[:1000])  # damage: the one before is as good
    shutil.copytree(folder / name, folder / "copy")  # another name: left alone
    [(found, saved)] = read_saved(folder)
    assert found.name == saved.id == name and video.stat().st_size == length
    assert not list(found.rglob(".*.new"))
    with server(folder, offers=offers) as client:
        client.do(name, "resume")
        found = [client.block(name, block) for block in range(6)]
        assert found == made_alone(tmp_path, PROMPT, 6, seed=4)[1]


def test_a_file_whose_first_block_was_cut_off_begins_again(tmp_path, offers):
    folder = tmp_path / "served"
    with server(folder, offers=offers) as client:
        name = client.begin(PROMPT, seed=4)["id"]
        client.block(name, 0)
    shutil.rmtree(folder / name / "snapshots")
    (folder / name / "video.mp4").write_bytes(b"")
    with server(folder, offers=offers) as client:
        assert client.session(name)["state"] == "stopped" and client.session(name)["blocks"] == 0
        client.do(name, "resume")
        found = [client.block(name, block) for block in range(2)]
        assert found == made_alone(tmp_path, PROMPT, 2, seed=4)[1]


def plays(video: Path, scratch: Path) -> int:
    """The whole frames of a file that is or was being written."""
    if not video.is_file() or video.stat().st_size == 0:
        return 0  # its first block was being written: the next server takes it away
    shutil.copyfile(video, scratch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CutShort)
        return len(read_video(scratch)[0])


class Watcher(threading.Thread):
    """Watches a session block by block until its server is gone; keeps what it saw."""

    def __init__(self, client: Client, name: str, block: int = 0) -> None:
        super().__init__()
        self.address = f"/v1/sessions/{name}/blocks/"
        self.base, self.block = client.base_url, block
        self.seen: dict[int, bytes] = {}
        self.start()

    def run(self) -> None:
        with httpx.Client(base_url=self.base, timeout=60) as client:
            try:
                while True:
                    got = client.get(f"{self.address}{self.block}", params={"wait": 20})
                    if got.status_code == 200:
                        self.seen[self.block] = got.content
                        self.block += 1
                    elif got.status_code != 204:
                        return
            except httpx.HTTPError:
                return


def begun(client: Client, name: str) -> bool:
    return int(client.session(name)["blocks"]) >= 1


def killed_and_resumed(tmp_path: Path, times: int, sessions: int) -> None:
    """Kill a server again and again; every file plays, every session goes on, none differs."""
    folder, moments = tmp_path / "served", random.Random(7)
    names: list[str] = []
    seen: dict[str, dict[int, bytes]] = {}
    steering: dict[str, list[dict]] = {}
    options = ("--snapshot-every", "3")
    for turn in range(times):
        with process(folder, *options) as (running, client):
            for name in names:
                client.do(name, "resume")
            for seed in range(len(names), sessions):
                names.append(client.begin(PROMPT, seed=seed)["id"])
            watching = [
                Watcher(client, name, client.session(name)["blocks"] if turn else 0)
                for name in names
            ]
            steered = moments.choice(names)
            until(partial(begun, client, steered))
            text = moments.choice([OTHER, PROMPT])
            event = client.do(steered, "prompt", text=text, memory="cut")["event"]
            before = seen.get(steered, {})  # what was seen behind the snapshot is another ending
            seen[steered] = {block: before[block] for block in before if block < event["block"]}
            time.sleep(moments.uniform(0.0, 1.5))
            for name in names:
                steering[name] = client.session(name)["events"]
            running.send_signal(signal.SIGKILL)
            running.wait()
            for watcher, name in zip(watching, names, strict=True):
                watcher.join(30)
                seen.setdefault(name, {}).update(watcher.seen)
        for name in names:
            frames = plays(folder / name / "video.mp4", tmp_path / "copy.mp4")
            assert frames or not seen[name], f"{name} does not play"
            assert (folder / name / FILE).is_file()
    with process(folder, *options) as (running, client):
        for seed, name in enumerate(names):
            client.do(name, "resume")
            last = max([*seen[name], client.session(name)["blocks"]]) + 1
            found = [client.block(name, block) for block in range(last + 1)]
            alone = made_alone(tmp_path, PROMPT, last + 1, seed=seed, events=steering[name])[1]
            assert found == alone
            for block, data in seen[name].items():
                assert data == alone[block], f"{name}: block {block} was another one"
            client.do(name, "close")
            assert client.session(name)["has_record"]
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 128 + signal.SIGTERM


def test_a_killed_server_loses_nothing(tmp_path):
    killed_and_resumed(tmp_path, times=1, sessions=2)


@pytest.mark.slow
def test_a_server_killed_at_ten_moments_loses_nothing(tmp_path):
    killed_and_resumed(tmp_path, times=10, sessions=4)
