"""The config of a server of videos: where it listens, what it offers, and its limits. No torch."""

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

from longlive_core.checks import real, shown, whole
from longlive_models.choices import WEIGHTS
from longlive_models.runtime_options import RuntimeOptions
from longlive_recipes.planning.hardware import size_in_bytes

_TOKEN = re.compile(r"[!-~]{8,256}")
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one server gives away at most.

    Attributes:
        sessions: videos that are open at a time.
        seconds: the length of a video, at the model's rate.
        steps: denoising steps of a block.
        queue: whole videos that wait.
        upload_mb: a picture or a record that is sent, in MiB.
        ahead: blocks that are made before the one that is watched is asked for.
        snapshot_every: blocks between two snapshots.
        snapshot_mb: snapshots of one session, in MiB; if a single one takes more, none is kept.

    Raises ValueError for limits that allow nothing.
    """

    sessions: int = 8
    seconds: float = 3600.0
    steps: int = 100
    queue: int = 16
    upload_mb: int = 16
    ahead: int = 2
    snapshot_every: int = 4
    snapshot_mb: int = 2048

    def __post_init__(self) -> None:
        why = "the most that this server gives. Use, say, {}."
        for name, least, most in (
            ("sessions", 1, 1000),
            ("steps", 1, 1000),
            ("queue", 0, 10_000),
            ("upload_mb", 1, 1024),
            ("ahead", 1, 1000),
            ("snapshot_every", 1, 100_000),
            ("snapshot_mb", 0, 1 << 30),
        ):
            given = vars(self)[name]
            default = type(self).__dataclass_fields__[name].default
            whole(name, given, at_least=least, at_most=most, why=why.format(default))
        real("seconds", self.seconds, above=0, at_most=1e6, why=why.format(3600))


@dataclass(frozen=True, kw_only=True)
class Serve(RuntimeOptions):
    """A server of videos that are watched while they are made.

    Attributes:
        model: the name, folder or hub id of the model.
        folder: where videos, records and snapshots are kept.
        host, port: the address to listen at; port 0 is any free one.
        token: what clients have to send; needed for other addresses than this machine's own.
        names: host names by which the server is reached, beside its address.
        offer: further precisions of the weights to choose from; each loads the model once more.
        limits: what is given away at most.
        max_memory: how much of the device's memory may be taken, such as "24GB": what is left to
            "auto" is picked so, for as many sessions as may be open.

    Raises ValueError for an address that is open to others without a token, and for values that
    cannot be.
    """

    model: str = "pocket"
    download: bool = False
    folder: Path = Path("served")
    host: str = "127.0.0.1"
    port: int = 8765
    token: str | None = None
    names: tuple[str, ...] = ()
    offer: tuple[str, ...] = ()
    limits: Limits = Limits()
    max_memory: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_memory is not None:
            size_in_bytes("max_memory", self.max_memory)
            if self.offer:
                raise ValueError(
                    f"max_memory={self.max_memory!r} is shared out among one model's parts, and "
                    f"offer={shown(self.offer)} loads it more than once. Leave one of them out."
                )
        whole("port", self.port, at_least=0, at_most=65_535, why="a TCP port. Use, say, 8765.")
        if self.token is not None and not _TOKEN.fullmatch(self.token):
            raise ValueError(
                f"a token has 8 to 256 letters, digits and signs without spaces, got one of "
                f"{len(self.token)}: it is sent in a header. Choose another --token."
            )
        for name in self.names:
            if not _HOST.fullmatch(name):
                raise ValueError(
                    f"{shown(name)} is no host name: it is compared with what browsers send. "
                    f"Write it without a scheme, a port or a path."
                )
        for weights in self.offer:
            if weights not in WEIGHTS:
                raise ValueError(
                    f"{shown(weights)} is no precision of weights: there are "
                    f"{', '.join(WEIGHTS)}. Use one of them."
                )
        if not is_loopback(self.host) and self.token is None:
            raise ValueError(
                f"--host {self.host} lets other machines in, and without a token all of them may "
                f"use this one: pass --token with a secret, or listen at 127.0.0.1."
            )


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
