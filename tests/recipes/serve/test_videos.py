"""The queue of whole videos: its order, its progress, and the clients of OpenAI's videos."""

import io
import json
import warnings

import pytest
from PIL import Image

from longlive_models.video.files import read_video
from tests.models.tiny_pipeline import FPS
from tests.recipes.serve.servers import made_alone, until

PROMPT = "a red circle"


@pytest.fixture(autouse=True)
def empty_queue(client):
    yield
    for video in client.get("/v1/videos").json()["data"]:
        client.delete(f"/v1/videos/{video['id']}")


def submit(client, **fields):
    return client.said(client.post("/v1/videos", json={"prompt": PROMPT, **fields}))


def told(client, name):
    """All events of a video, up to its end."""
    found = []
    with client.stream("GET", f"/v1/videos/{name}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for line in stream.iter_lines():
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            if line.startswith("data: "):
                found.append((kind, json.loads(line.removeprefix("data: "))))
    return found


def test_a_video_tells_its_progress_and_is_the_one_of_its_seed(client, tmp_path):
    name = submit(client, seconds=4, seed=6)["id"]
    events = told(client, name)
    progress = [job["progress"] for _, job in events]
    assert progress == sorted(progress) and progress[-1] == 100
    assert [kind for kind, _ in events][-1] == "completed"
    assert {kind for kind, _ in events[:-1]} <= {"progress"}
    content = client.get(f"/v1/videos/{name}/content").content
    (tmp_path / "a.mp4").write_bytes(content)
    frames, fps = read_video(tmp_path / "a.mp4")
    assert (len(frames), fps) == (4 * FPS, FPS)
    header, blocks = made_alone(tmp_path, PROMPT, 4, seed=6)  # the last one is cut to the length
    assert content.startswith(header + b"".join(blocks))
    assert client.get(f"/v1/videos/{name}/record").json()["replay"]["seed"] == 6


def test_videos_are_made_in_their_order_and_no_more_are_taken_than_wait(client):
    names = [submit(client, seconds=20, steps=20)["id"] for _ in range(3)]
    until(lambda: client.get(f"/v1/videos/{names[0]}").json()["status"] == "in_progress")
    names.append(submit(client)["id"])
    assert [client.get(f"/v1/videos/{name}").json()["before"] for name in names] == [None, 0, 1, 2]
    full = client.post("/v1/videos", json={"prompt": PROMPT})
    assert full.status_code == 429 and "3 videos wait" in full.json()["error"]["message"]
    early = client.get(f"/v1/videos/{names[0]}/content")
    assert early.status_code == 409 and "in_progress" in early.json()["error"]["message"]
    for name in names[:3]:  # one that is being made, and those that wait
        assert client.delete(f"/v1/videos/{name}").json()["object"] == "video.deleted"
        assert client.get(f"/v1/videos/{name}").status_code == 404
    until(lambda: client.get(f"/v1/videos/{names[3]}").json()["status"] == "completed")


def test_sessions_and_videos_share_the_model(client):
    name = submit(client, seconds=30)["id"]
    session = client.begin(PROMPT)["id"]
    for block in range(4):
        client.block(session, block)
    assert client.get(f"/v1/videos/{name}").json()["status"] == "in_progress"
    until(lambda: client.get(f"/v1/videos/{name}").json()["status"] == "completed")


def test_a_form_with_a_picture_is_taken_as_well(client):
    buffer = io.BytesIO()
    Image.new("RGB", (64, 32), (0, 250, 0)).save(buffer, "PNG")
    fields = {"prompt": PROMPT, "seconds": "1", "seed": "3", "model": "model", "size": "32x32"}
    files = {"input_reference": ("../../a.png", buffer.getvalue(), "image/png")}
    made = client.said(client.post("/v1/videos", data=fields, files=files))
    assert (made["seed"], made["seconds"], made["model"]) == (3, "1", "model")
    assert told(client, made["id"])[-1][0] == "completed"
    record = client.get(f"/v1/videos/{made['id']}/record").json()
    assert record["replay"]["image"] == "image.png"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model": "sora-2"}, "has the model model alone"),
        ({"size": "1280x720"}, "frames of 32x32"),
        ({"seconds": "soon"}, "seconds is a number"),
        ({"steps": 101}, "100 steps at most"),
        ({"weights": "fp8"}, "it offers fp32"),
        ({"seconds": 61}, "60 s at most"),
    ],
)
def test_what_cannot_be_made_is_refused(client, fields, said):
    got = client.post("/v1/videos", json={"prompt": PROMPT, **fields})
    assert got.status_code == 400 and said in got.json()["error"]["message"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_client_of_openai_works(client, tmp_path):
    openai = pytest.importorskip("openai", reason="needs openai (extra `contract`)")
    theirs = openai.OpenAI(base_url=f"{client.base_url}v1", api_key="any")
    with theirs, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = theirs.videos.create_and_poll(
            prompt=PROMPT, seconds="4", size="32x32", poll_interval_ms=100
        )
        assert (made.status, made.progress, made.object) == ("completed", 100, "video")
        theirs.videos.download_content(made.id).write_to_file(tmp_path / "a.mp4")
        assert [video.id for video in theirs.videos.list()] == [made.id]
        assert theirs.videos.retrieve(made.id).seconds == "4"
        assert theirs.videos.delete(made.id).deleted
        with pytest.raises(openai.NotFoundError, match="no such video"):
            theirs.videos.retrieve(made.id)
        with pytest.raises(openai.BadRequestError, match="alone"):
            theirs.videos.create(prompt=PROMPT, model="sora-2")
    assert len(read_video(tmp_path / "a.mp4")[0]) == 4 * FPS
