"""A hundred requests and more that a server refuses: method, path, what is sent, and the status.

``ID`` stands for a session that is open, ``VIDEO`` for a video of the queue. A body is JSON unless
it is bytes.
"""

import json
import struct
import zlib
from typing import Any

Case = tuple[str, str, dict[str, Any], int]

SESSION, PROMPT, FORK = "/v1/sessions", "/v1/sessions/ID/prompt", "/v1/sessions/ID/fork"
GOOD = {"prompt": "a red circle"}


def png(width: int, height: int, *, cut: int = 0) -> bytes:
    """A picture whose header says its size, with hardly any pixels in it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"\0" * 64))
    whole = b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b"")
    return whole[: len(whole) - cut]


def post(path: str, body: Any, status: int = 400, **more: Any) -> Case:
    sent = {"content": body} if isinstance(body, bytes) else {"json": body}
    return "POST", path, {**sent, **more}, status


def fields() -> list[Case]:
    """Values that no video has."""
    wrong: dict[str, list[Any]] = {
        "prompt": ["", "   ", 7, None, ["a"], {"a": 1}, "a" * 4001, "a\u0000b", "a\u001b[2J"],
        "seed": [-1, 1.5, "7", 1 << 63, True, None, [1], 1e400],
        "seconds": [0, -1, "5", 61, 1e7, "inf", [], True],
        "steps": [0, 1001, 101, 2.5, "4", [4, 2], False],
        "guidance": [-0.1, 1001, "a"],
        "crf": [-1, 52, "best", 1.5],
        "sampler": ["none", 3, ""],
        "weights": ["fp8", "/etc", 5, "x" * 41],
        "negative_prompt": [5, "a" * 4001],
        "shots": [[], "a", [{}], [{"prompt": ""}], [{"prompt": "a", "seconds": 0}], [1]],
        "unknown": [1],
        "__proto__": [{}],
        "folder": ["/tmp/x"],
        "model": ["/etc/passwd"],
        "output": ["../../x.mp4"],
    }
    cases = [
        post(SESSION, {**GOOD, name: value})
        for name, values in wrong.items()
        for value in values
        if not (name in ("seed",) and value is None)
        if not (isinstance(value, float) and value == float("inf"))
    ]
    cases.append(post(SESSION, b'{"prompt": "a", "seed": 1e999}', headers=JSON))
    cases.append(post(SESSION, {"prompt": "a", "shots": [{"prompt": "b"}]}))
    cases.append(post(SESSION, {"shots": [{"prompt": "a"}, {"prompt": "b"}]}))
    cases.append(post(SESSION, {}))
    return cases


JSON = {"content-type": "application/json"}


def bodies() -> list[Case]:
    """Bodies that are no object of fields, are of another kind, or too large."""
    deep = b'{"prompt": ' + b"[" * 20_000 + b"]" * 20_000 + b"}"
    large = json.dumps({"prompt": "a" * (17 << 20)}).encode()
    return [
        post(SESSION, b"", headers=JSON),
        post(SESSION, b"{", headers=JSON),
        post(SESSION, b"null", headers=JSON),
        post(SESSION, b"[]", headers=JSON),
        post(SESSION, b'"a"', headers=JSON),
        post(SESSION, b"\xff\xfe", headers=JSON),
        post(SESSION, b'{"prompt": "\xff"}', headers=JSON),
        post(SESSION, b'{"prompt": "\\ud800"}', headers=JSON),
        post(SESSION, b'{"prompt": NaN}', headers=JSON),
        post(SESSION, deep, headers=JSON),
        post(SESSION, b"prompt=a", headers={"content-type": "application/x-www-form-urlencoded"}),
        post(SESSION, b"<a/>", headers={"content-type": "text/xml"}),
        post(SESSION, large, 413, headers=JSON),
        post(PROMPT, large, 413, headers=JSON),
        post(PROMPT, b"a" * 70_000, 413, headers=JSON),
        post("/v1/token", b'{"token": 5}', headers=JSON),
        post("/v1/token", b"{}", headers=JSON),
        post("/v1/sessions/replay", {"record": {}}),
        post("/v1/sessions/replay", {"record": []}),
        post("/v1/sessions/replay", {"record": {"replay": {}, "model_sha256": "", "settings": {}}}),
        post("/v1/sessions/replay", {"record": {"replay": 1, "model_sha256": 2, "settings": 3}}),
        post("/v1/sessions/replay", {}),
    ]


def pictures() -> list[Case]:
    """What is no picture, or too large a one; its pixels are never read."""
    path = "/v1/images"
    return [
        post(path, b"", 415),
        post(path, b"hello", 415),
        post(path, png(8, 8, cut=30), 415),
        post(path, png(100_000, 100_000), 415),
        post(path, png(4097, 4096), 415),
        post(path, png(64, 64), 415),  # too few pixels in it
        post(path, b"GIF89a" + b"\0" * 50, 415),
        post(path, b"%PDF-1.4", 415),
        post(path, b"a" * ((16 << 20) + 1), 413),
        post(SESSION, {**GOOD, "image": "../../etc/passwd"}, 404),
        post(SESSION, {**GOOD, "image": "0" * 64}, 404),
        post(SESSION, {**GOOD, "image": "a" * 65}),
        post(SESSION, {**GOOD, "image": 5}),
    ]


def places() -> list[Case]:
    """Paths that lead nowhere, and tricks with those that do."""
    get: list[tuple[str, int]] = [
        ("/v1/sessions/0000000000000000", 404),
        ("/v1/sessions/..%2f..%2fetc%2fpasswd", 404),
        ("/v1/sessions/%2e%2e/record", 404),
        ("/v1/sessions/ID/../../server", 404),
        ("/v1/sessions/ID%00", 404),
        ("/v1/sessions/VIDEO", 404),
        ("/v1/videos/ID", 404),
        ("/v1/videos/VIDEO/../ID/content", 404),
        ("/v1/sessions/" + "a" * 65, 400),
        ("/v1/sessions/ID/blocks/-1", 400),
        ("/v1/sessions/ID/blocks/x", 400),
        ("/v1/sessions/ID/blocks/1e3", 400),
        ("/v1/sessions/ID/blocks/99999999999999999999", 400),
        ("/v1/sessions/ID/blocks/0?wait=-1", 400),
        ("/v1/sessions/ID/blocks/0?wait=61", 400),
        ("/v1/sessions/ID/blocks/0?wait=nan", 400),
        ("/v1/sessions/ID/blocks/0/frames?format=bmp", 400),
        ("/v1/sessions/ID/video.mp4?follow=perhaps", 400),
        ("/v1/sessions/ID/record", 404),
        ("/v1/sessions/ID/session.json", 404),
        ("/v1/sessions/ID/snapshots", 404),
        ("/v1/sessions/", 404),
        ("/v1/sessions/ID/", 404),
        ("/v1/videos/VIDEO/content", 409),
        ("/v1/videos/nothing", 404),
        ("/v1", 404),
        ("/docs", 404),
        ("/app.py", 404),
        ("/..%2f..%2fpyproject.toml", 404),
        ("//etc/passwd", 404),
        ("/static/../../x", 404),
        ("/index.html", 404),
    ]
    return [("GET", path, {}, status) for path, status in get]


def methods() -> list[Case]:
    """Methods that an address does not take."""
    pairs = [
        ("DELETE", SESSION),
        ("PUT", SESSION),
        ("PATCH", f"{SESSION}/ID"),
        ("GET", PROMPT),
        ("OPTIONS", SESSION),
        ("TRACE", SESSION),
        ("HEAD", SESSION),
        ("POST", "/v1/server"),
        ("POST", "/"),
        ("FROB", SESSION),
        ("CONNECT", SESSION),
    ]
    return [(method, path, {}, 405) for method, path in pairs]


def steering() -> list[Case]:
    """What a session cannot be told."""
    return [
        post(PROMPT, {"text": ""}),
        post(PROMPT, {"text": " \n "}),
        post(PROMPT, {"text": "a\u0007"}),
        post(PROMPT, {"text": "a", "memory": "lose"}),
        post(PROMPT, {"text": "a", "at": -1}),
        post(PROMPT, {"text": "a", "at": 1e9}),
        post(PROMPT, {"text": "a", "at": 60_000.0}, 409),
        post(PROMPT, {"text": "a", "at": "next"}),
        post(PROMPT, {"text": "a", "block": 3}),
        post("/v1/sessions/ID/cut", {"text": "a", "forget": "yes"}),
        post("/v1/sessions/ID/cut", {}),
        post(FORK, {"block": -1}),
        post(FORK, {"block": 1.5}),
        post(FORK, {"block": 1000}, 409),
        post(FORK, {"text": ""}),
        post(FORK, {"memory": "cut", "path": "/tmp"}),
        post("/v1/sessions/ID/resume", None, 409),
        post("/v1/sessions/nothing/close", None, 404),
        post("/v1/sessions/nothing/snapshot", None, 404),
    ]


def strangers() -> list[Case]:
    """Requests of other sites' pages, and under other names."""
    heads: list[dict[str, str]] = [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "https://127.0.0.1"},
        {"origin": "file://"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"host": "evil.example"},
        {"host": "evil.example:8765"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "localhost@evil.example"},
        {"host": "[::1"},
        {"host": ""},
        {"host": "192.168.0.7"},
    ]
    return [("GET", "/v1/server", {"headers": head}, 403) for head in heads] + [
        post(SESSION, GOOD, 403, headers={"origin": "http://evil.example"}),
        post("/v1/token", {"token": "a"}, 403, headers={"origin": "http://evil.example"}),
        ("GET", "/", {"headers": {"host": "evil.example"}}, 403),
    ]


def forms() -> list[Case]:
    """Forms that ask for no video."""
    path = "/v1/videos"
    text = {"content-type": "text/plain"}
    broken = {"content-type": "multipart/form-data; boundary=x"}
    return [
        ("POST", path, {"data": {}}, 415),
        post(path, b"a", 415, headers=text),
        post(path, b"--y\r\n", 400, headers=broken),
        post(path, b"", 400, headers={"content-type": "multipart/form-data"}),
        post(path, b"[", 400, headers=JSON),
        post(path, [1], 400),
        ("POST", path, {"data": {"prompt": "a", "seed": "1e3"}}, 400),
        ("POST", path, {"data": {"prompt": "a", "seed": "-5"}}, 400),
        ("POST", path, {"data": {"prompt": "a", "seconds": "nan"}}, 400),
        ("POST", path, {"data": {"prompt": ""}}, 400),
        ("POST", path, {"data": {"prompt": ["a", "b"]}}, 400),
        ("POST", path, {"data": {"prompt": "a", "input_reference": "/etc/passwd"}}, 400),
        ("POST", path, {"data": {"prompt": "a"}, "files": {"input_reference": b"no"}}, 415),
        ("POST", path, {"data": {"prompt": "a"}, "files": {"other": b"no"}}, 400),
        ("POST", path, {"data": {"prompt": "a"}, "files": {"prompt": b"a"}}, 400),
    ]


CASES: list[Case] = [
    *fields(),
    *bodies(),
    *pictures(),
    *places(),
    *methods(),
    *steering(),
    *strangers(),
    *forms(),
]
