"""A client of `longlive serve`: begins a video, steers it, forks it, and saves both endings.

Start a server first, `longlive serve`, and pass its address if it is another one.

Run: `python examples/serve_client.py [ADDRESS [TOKEN]]`
"""

import json
import sys
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen


class Session:
    """A video of a server."""

    def __init__(self, address: str, name: str = "", token: str = "") -> None:
        self.address, self.name, self.token = address.rstrip("/"), name, token

    def ask(self, path: str, body: dict[str, Any] | None = None) -> bytes:
        """The answer to a request."""
        headers = {"content-type": "application/json", "authorization": f"Bearer {self.token}"}
        data = None if body is None else json.dumps(body).encode()
        with urlopen(Request(f"{self.address}/v1/sessions{path}", data, headers)) as answer:
            return bytes(answer.read())

    def begin(self, prompt: str, **fields: Any) -> "Session":
        """Begin a video."""
        made = json.loads(self.ask("", {"prompt": prompt, **fields}))
        return Session(self.address, made["id"], self.token)

    def do(self, what: str, **fields: Any) -> dict[str, Any]:
        """Carry out prompt, cut, fork, snapshot, resume or close."""
        return dict(json.loads(self.ask(f"/{self.name}/{what}", fields)))

    def watch(self, block: int) -> bytes:
        """Wait for a block, which is then made; returns it as a fragment of the mp4."""
        return self.ask(f"/{self.name}/blocks/{block}?wait=60")


def main(address: str = "http://127.0.0.1:8765/", token: str = "") -> list[Path]:
    """Two endings of one video; returns their files."""
    session = Session(address, token=token).begin("a red circle moves right on a navy background")
    session.watch(0)
    event = session.do("prompt", text="a blue circle moves right on a navy background")["event"]
    session.watch(event["block"] + 1)
    ending = session.do("fork", text="a green square moves up on a white background", memory="cut")
    other = Session(address, ending["id"], token)
    other.watch(ending["parent_block"] + 1)
    for one in (session, other):
        one.do("close")
        Path(f"{one.name}.mp4").write_bytes(one.ask(f"/{one.name}/video.mp4"))
    return [Path(f"{one.name}.mp4") for one in (session, other)]


if __name__ == "__main__":
    print(*main(*sys.argv[1:]), sep="\n")
