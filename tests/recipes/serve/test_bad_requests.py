"""Whatever is sent, a server answers with a sentence, tells nothing, and keeps nothing running."""

import json
import re
import socket
import threading
import time
from contextlib import suppress
from typing import Any

import pytest

from tests.recipes.serve.bad_requests import CASES, SESSION, Case
from tests.recipes.serve.servers import Client, limits, server, until

SECRET = "a-secret-token"


@pytest.fixture(scope="module")
def busy(tmp_path_factory, offers):
    """A server with an open session that stands still, and a video that is never ready."""
    folder = tmp_path_factory.mktemp("busy") / "served"
    with server(folder, limits(upload_mb=16), offers) as client:
        name = client.begin("a red circle")["id"]
        until(lambda: client.session(name)["state"] == "paused")
        fields = {"prompt": "a red circle", "seconds": 60, "steps": 100}
        video = client.said(client.post("/v1/videos", json=fields))["id"]
        yield client, name, video, str(folder)


def name_of(case: Case) -> str:
    method, path, sent, status = case
    return f"{status} {method} {path[:40]} {str(sent)[:60]}"


def test_there_are_enough():
    assert len(CASES) >= 120 and len({str(case) for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_a_bad_request_is_refused_in_one_sentence(busy, case):
    client, name, video, folder = busy
    method, path, sent, status = case
    before = [(one["id"], one["blocks"], one["events"]) for one in sessions(client)]
    got = raw(client, method, path.replace("VIDEO", video).replace("ID", name), sent)
    assert got.status == status, (got.status, got.body)
    if status == 405 and path == SESSION:
        assert "allow: get, post\r\n" in got.head
    if method != "HEAD":
        check(got.body, folder)
    assert [(one["id"], one["blocks"], one["events"]) for one in sessions(client)] == before
    assert [one["id"] for one in client.get("/v1/videos").json()["data"]] == [video]


def check(body: bytes, folder: str) -> None:
    """One sentence, that says nothing of this machine or of Python."""
    message = json.loads(body)["error"]["message"]
    assert message.strip() == message and message.endswith((".", "]", "'")) and "\n" not in message
    assert 10 < len(message) <= 600
    for leak in (folder, "Traceback", "site-packages", "/work", "/tmp", "Error:", "0x"):
        assert leak not in message, message


def sessions(client: Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get("/v1/sessions").json()["data"]
    return found


class Got:
    """An answer as it came, so that paths and heads are sent as they are written."""

    def __init__(self, data: bytes) -> None:
        head, _, self.body = data.partition(b"\r\n\r\n")
        self.status = int(head.split()[1])
        self.head = head.decode("latin-1").lower()


def raw(client: Client, method: str, path: str, sent: dict[str, Any]) -> Got:
    """Send a request without mending its path."""
    made = client.build_request("POST", "/", **{k: v for k, v in sent.items() if k != "headers"})
    body = made.read()
    heads = {"host": f"127.0.0.1:{client.base_url.port}", "connection": "close"}
    if body or method == "POST":
        heads["content-length"] = str(len(body))
        if "content-type" in made.headers:
            heads["content-type"] = made.headers["content-type"]
    heads |= sent.get("headers", {})
    head = "".join(f"{name}: {value}\r\n" for name, value in heads.items())
    return exchange(client, f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)


def exchange(client: Client, data: bytes) -> Got:
    with socket.create_connection(("127.0.0.1", client.base_url.port), timeout=30) as link:
        with suppress(OSError):  # a body that is too large is not read to its end
            link.sendall(data)
        return Got(received(link))


def received(link: socket.socket) -> bytes:
    """An answer, up to the length that it announces."""
    data = b""
    try:
        while piece := link.recv(1 << 16):
            data += piece
            head, end, body = data.partition(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head.lower())
            if end and length and len(body) >= int(length[1]):
                break
    except ConnectionResetError:
        assert data
    return data


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",  # a TLS greeting
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nBad Header\r\n\r\n",
        b"GET /v1/server HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n",
        b"POST /v1/images HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /v1/server HTTP/1.1\r\n\r\n",
    ],
    ids=lambda data: str(data[:40]),
)
def test_what_is_no_http_is_refused(busy, data):
    got = exchange(busy[0], data)
    assert 400 <= got.status < 500
    assert len(got.body) < 400


def test_half_requests_are_ended(busy, monkeypatch):
    client = busy[0]
    from longlive_recipes.serve.web import guard, protocol

    monkeypatch.setattr(protocol, "SECONDS", 0.3)
    monkeypatch.setattr(guard, "_STALLED", 0.3)
    start = b"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\n"
    body = b"Content-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
    for half in (b"", b"GET ", start, start + body):
        began = time.monotonic()
        got = exchange(client, half)
        assert got.status == 408 and time.monotonic() - began < 10
        assert "connection: close" in got.head
        assert "in time" in json.loads(got.body)["error"]["message"]
    endless = start + b"Transfer-Encoding: chunked\r\n\r\n" + b"10000\r\n" + b"a" * 65536 + b"\r\n"
    got = exchange(client, endless)
    assert got.status == 408


def test_a_body_without_an_announced_end_is_cut_off(busy):
    start = b"POST /v1/sessions/x/prompt HTTP/1.1\r\nHost: localhost\r\n"
    chunk = b"4000\r\n" + b"a" * 0x4000 + b"\r\n"
    got = exchange(busy[0], start + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 8)
    assert got.status == 413 and "too large" in json.loads(got.body)["error"]["message"]


def test_clients_that_leave_at_any_point_leave_nothing(busy):
    client, name, _, _ = busy
    whole = (
        f"GET /v1/sessions/{name}/blocks/50?wait=60 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    )
    made = client.session(name)["blocks"]
    for end in range(0, len(whole), 7):
        with socket.create_connection(("127.0.0.1", client.base_url.port)) as link:
            link.sendall(whole[:end])
    until(lambda: client.session(name)["watchers"] == 0)
    assert client.session(name)["blocks"] == made


def test_a_token_is_wanted_everywhere_but_for_the_page(tmp_path, offers):
    with server(tmp_path / "served", offers=offers, token=SECRET) as client:
        known = client.get("/openapi.json").json()["paths"]
        del client.headers["authorization"]
        for path in [*known, "/openapi.json"]:
            got = client.get(path)
            assert got.status_code == (405 if path == "/v1/token" else 401), path
        assert client.get("/v1/server").headers["www-authenticate"] == "Bearer"
        for token in ("wrong-token", SECRET[:-1], f"{SECRET}x", "ü" * 9):
            heads = {"authorization": f"Bearer {token}".encode()}
            assert client.get("/v1/server", headers=heads).status_code == 401
            assert client.post("/v1/token", json={"token": token}).status_code == 401
        page = client.get("/")
        assert page.status_code == 200 and SECRET not in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert client.post("/v1/token", json={"token": SECRET}).status_code == 204
        cookie = next(iter(client.cookies.jar))
        assert SECRET not in (cookie.value or "") and cookie.has_nonstandard_attr("HttpOnly")
        assert client.get("/v1/server").status_code == 200


def test_as_many_sessions_as_are_allowed_can_begin_at_once(tmp_path, offers):
    with server(tmp_path / "served", limits(sessions=6), offers) as client:
        answers: list[int] = []

        def begin() -> None:
            with Client(base_url=client.base_url, timeout=60) as own:
                got = own.post("/v1/sessions", json={"prompt": "a red circle"})
                answers.append(got.status_code)

        beginning = [threading.Thread(target=begin) for _ in range(8)]
        for thread in beginning:
            thread.start()
        for thread in beginning:
            thread.join()
        assert sorted(answers) == [201] * 6 + [429] * 2


def test_sessions_are_limited(tmp_path, offers, monkeypatch):
    with server(tmp_path / "served", limits(sessions=2), offers) as client:
        first, second = (client.begin("a red circle")["id"] for _ in range(2))
        full = client.post("/v1/sessions", json={"prompt": "a red circle"})
        assert full.status_code == 429 and "2 sessions are open" in full.text
        assert full.json()["error"]["type"] == "rate_limit_error"
        assert client.post(f"/v1/sessions/{first}/fork", json={}).status_code == 429
        from longlive_recipes.serve import studio

        monkeypatch.setattr(studio, "_IDLE", 0.0)  # nobody watches: the oldest makes room
        third = client.begin("a red circle")["id"]
        states = {one["id"]: one["state"] for one in sessions(client)}
        assert sorted(states.values()).count("stopped") == 1 and states[third] != "stopped"
        stopped = next(name for name, state in states.items() if state == "stopped")
        assert stopped in (first, second)
        assert client.do(stopped, "resume")["state"] in ("running", "paused")
