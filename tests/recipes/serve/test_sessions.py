"""Sessions over HTTP: blocks, steering, forks, snapshots, replays; the file is what is served."""

import base64
import io
import json
import socket
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from longlive_models.video.files import read_video
from longlive_recipes.generation.jobs import replay
from tests.models.tiny_pipeline import FPS
from tests.recipes.serve.servers import hashes, limits, made_alone, server, until

PROMPT, OTHER = "a red circle", "a blue square"


def test_blocks_are_the_bytes_of_the_file_and_the_frames_of_the_same_seed(client, tmp_path):
    name = client.begin(PROMPT, seed=3)["id"]
    parts = [client.block(name, block) for block in range(3)]
    client.do(name, "close")
    header = client.get(f"/v1/sessions/{name}/header")
    video = client.get(f"/v1/sessions/{name}/video.mp4").content
    assert video.startswith(header.content + b"".join(parts))
    assert header.headers["x-codec"] == client.session(name)["codec"] == "avc1.64000A"
    (tmp_path / "a.mp4").write_bytes(video)
    assert (header.content, parts) == made_alone(tmp_path, PROMPT, 3, seed=3)
    frames, fps = read_video(tmp_path / "a.mp4")
    assert fps == FPS and len(frames) == client.session(name)["frames"]


def test_frames_come_as_pictures_as_well(client, tmp_path):
    name = client.begin(PROMPT, seed=3)["id"]
    client.block(name, 1)
    got = client.said(client.get(f"/v1/sessions/{name}/blocks/1/frames"))
    (tmp_path / "a.mp4").write_bytes(client.get(f"/v1/sessions/{name}/video.mp4").content)
    frames, _ = read_video(tmp_path / "a.mp4")
    assert got["first"] == 5 and len(got["frames"]) == 8
    for data, frame in zip(got["frames"], frames[5:13], strict=True):
        image = Image.open(io.BytesIO(base64.b64decode(data)))
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        assert torch.equal(pixels, frame.flatten())
    got = client.get(f"/v1/sessions/{name}/blocks/0/frames", params={"format": "jpeg"}).json()
    assert Image.open(io.BytesIO(base64.b64decode(got["frames"][0]))).format == "JPEG"


@pytest.mark.parametrize("memory", ["keep", "recache", "cut", "forget"])
def test_the_first_block_begun_after_a_prompt_shows_it(client, memory, tmp_path):
    name = client.begin(PROMPT, seed=1)["id"]
    client.block(name, 1)
    said = client.do(name, "prompt", text=OTHER, memory=memory)
    event = said["event"]
    made = client.session(name)["blocks"]
    assert event["block"] in (made, made + 1) or event["block"] == made - 1
    assert event["text"] == OTHER and event["forget"] == (memory == "forget")
    last = event["block"] + 1
    found = [client.block(name, block) for block in range(last + 1)]
    assert found == made_alone(tmp_path, PROMPT, last + 1, seed=1, events=[event])[1]


def test_a_cut_and_unknown_words(client):
    name = client.begin(PROMPT)["id"]
    client.block(name, 0)
    said = client.do(name, "cut", text="a purple square", forget=True)
    assert said["event"]["memory"] == "cut" and said["event"]["forget"] is True
    assert "does not know 'purple'" in said["lines"][0]
    block = client.session(name)["next_block"]
    later = client.do(name, "prompt", text=OTHER, at=5.0)
    assert later["event"]["block"] == 5 >= block
    past = client.post(f"/v1/sessions/{name}/prompt", json={"text": OTHER, "at": 0.0})
    assert past.status_code == 409 and "is past" in past.json()["error"]["message"]


def test_what_is_to_be_said_of_a_video_is_told_with_it(client):
    odd = {"sampler": "few_step", "shots": [{"prompt": "a purple circle", "seconds": 1}] * 2}
    made = client.said(client.post("/v1/sessions", json=odd), 201)
    unknown, sampling, rounding = made["notes"]
    assert "does not know 'purple'" in unknown and "this model is none" in sampling
    assert "a shot is made of whole blocks" in rounding
    assert client.session(made["id"])["notes"] == made["notes"]
    job = client.said(client.post("/v1/videos", json=odd | {"seconds": 2}))
    assert job["notes"] == client.get(f"/v1/videos/{job['id']}").json()["notes"]
    assert job["notes"][:2] == [unknown, sampling]
    assert client.begin(PROMPT, sampler="euler", steps=1)["notes"] == []


def test_a_session_runs_only_as_far_as_it_is_watched(client):
    name = client.begin(PROMPT)["id"]
    until(lambda: client.session(name)["state"] == "paused")
    assert client.session(name)["blocks"] == 1
    client.block(name, 3)  # that one, and two ahead
    until(lambda: client.session(name)["state"] == "paused")
    assert client.session(name)["blocks"] == 6
    client.do(name, "prompt", text=OTHER)  # one more, for who has just asked for it
    until(lambda: client.session(name)["blocks"] == 7)
    time.sleep(0.2)
    assert client.session(name)["blocks"] == 7


def test_a_client_that_leaves_is_noticed_at_once(client):
    name = client.begin(PROMPT, steps=100)["id"]
    for address in ("blocks/500?wait=60", "video.mp4?follow=true"):
        with socket.create_connection((client.base_url.host, client.base_url.port)) as leaving:
            leaving.sendall(f"GET /v1/sessions/{name}/{address} HTTP/1.1\r\n".encode())
            leaving.sendall(b"Host: localhost\r\n\r\n")
            until(lambda: client.session(name)["watchers"] == 1)
        left = time.monotonic()
        until(lambda: client.session(name)["watchers"] == 0)
        assert time.monotonic() - left < 1.0
    until(lambda: client.session(name)["state"] == "paused")
    made = client.session(name)["blocks"]
    time.sleep(0.2)
    assert client.session(name)["blocks"] == made < 100


def test_the_followed_stream_is_the_file(client):
    name = client.begin(PROMPT, seconds=4, seed=2)["id"]
    with client.stream("GET", f"/v1/sessions/{name}/video.mp4?follow=true") as stream:
        whole = b"".join(stream.iter_bytes())
    assert client.session(name)["state"] == "ended" and client.session(name)["frames"] == 4 * FPS
    assert whole == client.get(f"/v1/sessions/{name}/video.mp4").content


def test_ranges_of_a_file(client):
    name = client.begin(PROMPT, seconds=2)["id"]
    client.block(name, 1)
    until(lambda: client.session(name)["state"] == "ended")
    address = f"/v1/sessions/{name}/video.mp4"
    whole = client.get(address).content
    parts = {"bytes=10-19": whole[10:20], "bytes=5-": whole[5:], "bytes=-7": whole[-7:]}
    for header, part in parts.items():
        got = client.get(address, headers={"range": header})
        assert got.status_code == 206 and got.content == part
        assert got.headers["content-range"].endswith(f"/{len(whole)}")
    behind = client.get(address, headers={"range": f"bytes={len(whole)}-"})
    assert behind.status_code == 416 and "behind" in behind.json()["error"]["message"]


def test_forks_share_the_past_and_part_at_their_block(client):
    name = client.begin(PROMPT, seed=5)["id"]
    client.block(name, 5)
    until(lambda: client.session(name)["state"] == "paused")
    assert client.session(name)["snapshots"][:2] == [2, 4]
    past = hashes(client, name, 6)
    fork = client.do(name, "fork", 201, block=5, text=OTHER, memory="cut")
    assert (fork["parent"], fork["parent_block"], fork["blocks"]) == (name, 5, 4)
    assert fork["events"] == [{"block": 5, "text": OTHER, "memory": "cut", "forget": False}]
    ended = hashes(client, fork["id"], 6)
    assert ended[:5] == past[:5] and ended[5] != past[5]
    early = client.do(name, "fork", 201, block=1, text=OTHER)
    assert early["blocks"] == 0  # before the first snapshot: made again from its start
    assert hashes(client, early["id"], 2)[0] == past[0]
    here = client.do(name, "fork", 201)
    assert here["parent_block"] == client.session(name)["blocks"] and here["events"] == []
    far = client.post(f"/v1/sessions/{name}/fork", json={"block": 99})
    assert far.status_code == 409 and "got block 99" in far.json()["error"]["message"]
    cut = client.post(f"/v1/sessions/{name}/fork", json={"block": 0, "text": "a", "memory": "cut"})
    assert cut.status_code == 409


def test_a_snapshot_can_be_taken_at_any_block(client):
    name = client.begin(PROMPT)["id"]
    client.block(name, 0)
    until(lambda: client.session(name)["state"] == "paused")
    made = client.session(name)["blocks"]
    assert client.do(name, "snapshot", 201) == {"block": made}
    assert made in client.session(name)["snapshots"]


def test_a_record_makes_the_same_video_again_steering_included(client, tmp_path):
    name = client.begin(PROMPT, seed=9, crf=30)["id"]
    client.block(name, 1)
    client.do(name, "prompt", text=OTHER, memory="recache")
    client.block(name, 4)
    closed = client.do(name, "close")
    assert closed["state"] == "ended" and closed["has_record"]
    got = client.get(f"/v1/sessions/{name}/record")
    record = got.json()
    assert str(tmp_path.parent) not in got.text and record["video"]["path"] == "video.mp4"
    (tmp_path / "record.json").write_text(got.text)
    config, job = replay(tmp_path / "record.json")
    assert job.seed == 9 and config.crf == 30 and job.events[0]["text"] == OTHER
    again = client.said(client.post("/v1/sessions/replay", json={"record": record}), 201)
    assert again["events"] == closed["events"]
    assert hashes(client, again["id"], closed["blocks"]) == hashes(client, name, closed["blocks"])
    until(lambda: client.session(again["id"])["state"] == "ended")
    record["replay"]["seed"] = 10
    record["settings"]["guidance"] = 4.0
    other = client.post("/v1/sessions/replay", json={"record": record})
    assert other.status_code == 400 and "would be made here" in other.json()["error"]["message"]


def test_a_picture_that_is_sent_begins_a_video_and_its_replay(client):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 60), (250, 10, 10)).save(buffer, "JPEG")
    sent = client.said(client.post("/v1/images", content=buffer.getvalue()), 201)
    name = client.begin(PROMPT, image=sent["id"], seconds=1)["id"]
    plain = client.begin(PROMPT, seconds=1)["id"]
    assert client.block(name, 0) != client.block(plain, 0)
    until(lambda: client.session(name)["state"] == "ended")
    record = client.get(f"/v1/sessions/{name}/record").json()
    alone = client.post("/v1/sessions/replay", json={"record": record})
    assert alone.status_code == 409 and "send that picture first" in alone.text
    again = client.said(
        client.post("/v1/sessions/replay", json={"record": record, "image": sent["id"]}), 201
    )
    assert client.block(again["id"], 0) == client.block(name, 0)


def test_a_storyboard_is_a_timeline(client):
    shots = [{"prompt": PROMPT, "seconds": 2}, {"prompt": OTHER, "seconds": 2}]
    made = client.said(client.post("/v1/sessions", json={"shots": shots}), 201)
    assert [shot["block"] for shot in made["shots"]] == [0, 2]
    assert [shot["text"] for shot in made["shots"]] == [PROMPT, OTHER]


def test_sessions_are_listed_and_deleted(client):
    names = [client.begin(PROMPT)["id"] for _ in range(2)]
    listed = [session["id"] for session in client.get("/v1/sessions").json()["data"]]
    assert listed == names[::-1]
    assert client.delete(f"/v1/sessions/{names[0]}").json()["deleted"] is True
    assert client.get(f"/v1/sessions/{names[0]}").status_code == 404
    assert client.get(f"/v1/sessions/{names[0]}/video.mp4").status_code == 404
    json.dumps(client.session(names[1]))


def test_ended_sessions_share_the_room_for_snapshots(tmp_path, offers):
    with server(tmp_path / "served", limits(snapshot_mb=1, snapshot_every=1), offers) as client:
        names = []
        for _ in range(4):
            names.append(client.begin(PROMPT)["id"])
            client.block(names[-1], 4)
            client.do(names[-1], "close")
        kept = [sum(one.stat().st_size for one in snapshots(tmp_path, name)) for name in names]
        assert sum(kept[:-1]) <= 1 << 20 and kept[-1] > 0 and kept[0] == 0
        job = client.post("/v1/videos", json={"prompt": PROMPT, "seconds": 3}).json()["id"]
        until(lambda: client.get(f"/v1/videos/{job}").json()["status"] == "completed")
        until(lambda: not snapshots(tmp_path, job))


def snapshots(folder: Path, name: str) -> list[Path]:
    return list((folder / "served" / name / "snapshots").glob("*.snapshot"))
