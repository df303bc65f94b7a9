"""Damaged, strange and hostile files of every kind that the library reads.

    python -m tests.bad_files [--every] [KIND ...]

Run in a process of its own, where annotations are not checked: as users have it. Each kind of file
is written as it should be and read; then it is read with one thing wrong, which has to end in a
sentence that names the file, soon, or in a value where the file is as good as before. Prints a line
for each case that did not, and how many cases there were. ``--every`` puts every wrong value into
every field, and not a few of them.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from tests.bad_files_kinds import KINDS, Kind

SECONDS = 5.0
"""Of one core, that a file may be read for."""

MEMORY = 300 << 20
"""Bytes by which a file may raise the most that the process had in memory."""

LETTERS = "zzz"
VALUES = {
    "null": "null",
    "a list": "[]",
    "an object": "{}",
    "a text": f'"{LETTERS}"',
    "5,000 digits": "9" * 5000,
    "NaN": "NaN",
    "-1": "-1",
    "1e300": "1e300",
    "true": "true",
    "a list in lists": '[[["a"]]]',
}
_HERE = "@@here@@"

LFS = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)
HTML = "<!DOCTYPE html>\n<html><head><title>404</title></head><body>Not Found</body></html>\n"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing that is wrong: ``damage`` does it to a file that was whole."""

    name: str
    damage: Callable[[Path], None]
    legal: bool | None = False
    """Whether the file is still good; None where either is right."""


@dataclass
class Report:
    """What went wrong, and how many cases there were."""

    wrong: list[str] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)
    count: int = 0


def text(content: str, encoding: str = "utf-8") -> Callable[[Path], None]:
    return lambda path: path.write_text(content, encoding=encoding)


def data(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


def noise(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


def of_any_file(kind: Kind, whole: bytes) -> Iterator[Case]:
    """What may happen to every file."""
    yield Case(name="nothing in it", damage=data(b""))
    for size in (1, 7, 100, 5000):
        legal = kind.either if size == 1 else False
        yield Case(name=f"{size} bytes of noise", damage=data(noise(size, size)), legal=legal)
        yield Case(name=f"{size} zeros", damage=data(bytes(size)))
    yield Case(name="a Git LFS pointer", damage=text(LFS), legal=kind.either)
    yield Case(name="a page of the web", damage=text(HTML), legal=kind.either)
    yield Case(name="a zip archive", damage=data(b"PK\x03\x04" + noise(300, 1)))
    yield Case(name="a pickle", damage=data(b"\x80\x04\x95" + noise(300, 2)))
    yield Case(name="an ELF program", damage=data(b"\x7fELF" + noise(300, 3)))
    for part in (1, 10, 30, 50, 70, 90, 99):
        end = max(1, len(whole) * part // 100)
        legal = None if kind.lines or not kind.whole else whole[end:].isspace()
        yield Case(name=f"its first {part} %", damage=data(whole[:end]), legal=legal)
    end = len(whole.rstrip()) - 1
    legal = None if kind.lines or not kind.whole else False
    yield Case(name="all but its last byte", damage=data(whole[:end]), legal=legal)
    yield Case(name="without its first byte", damage=data(whole[1:]), legal=None)

    def folder(path: Path) -> None:
        path.unlink()
        path.mkdir()

    def link(target: str) -> Callable[[Path], None]:
        def make(path: Path) -> None:
            path.unlink()
            path.symlink_to(target)

        return make

    yield Case(name="a folder", damage=folder)
    yield Case(name="gone", damage=Path.unlink, legal=kind.may_be_missing)
    yield Case(name="a link to nothing", damage=link("nowhere"), legal=kind.may_be_missing)
    yield Case(name="a link to itself", damage=lambda path: link(path.name)(path), legal=None)
    if os.geteuid():
        yield Case(name="unreadable", damage=lambda path: path.chmod(0))


def of_texts(kind: Kind, whole: bytes) -> Iterator[Case]:
    """What may happen to a text."""
    lines = whole.decode()
    yield Case(name="white space", damage=text(" \n\t\n"))
    yield Case(name="UTF-16", damage=text(lines, "utf-16"))
    yield Case(name="UTF-16 without a mark", damage=text(lines, "utf-16-le"))
    yield Case(name="UTF-32", damage=text(lines, "utf-32"))
    yield Case(name="a byte order mark", damage=text(lines, "utf-8-sig"), legal=True)
    yield Case(name="CRLF", damage=data(lines.replace("\n", "\r\n").encode()), legal=True)
    yield Case(name="Latin-1", damage=data(whole + b"# caf\xe9\n"))
    yield Case(name="half a letter", damage=data(whole + "é".encode()[:1]))
    yield Case(name="a NUL first", damage=data(b"\0" + whole))
    deep = "[" * 10_000
    yield Case(name="10,000 brackets", damage=text(deep), legal=kind.either)
    yield Case(name="10,000 lists", damage=text(deep + "]" * 10_000), legal=kind.either)
    objects = '{"a":' * 10_000 + "1" + "}" * 10_000
    yield Case(name="10,000 objects", damage=text(objects), legal=kind.either)
    for other in ("null", "[]", "3", '"a"', "true", "{}", "NaN"):
        legal = None if other == "{}" else kind.either
        yield Case(name=f"only {other}", damage=text(other), legal=legal)
    yield Case(name="two documents", damage=text(f"{lines}\n---\n{lines}"), legal=kind.either)
    yield Case(name="brackets that do not close", damage=text("{[("), legal=kind.either)


def of_documents(kind: Kind, whole: bytes, every: bool) -> Iterator[Case]:
    """What may be wrong with a value in JSON, which YAML reads as well."""
    document = json.loads(whole)
    places = list(_places(document, ()))
    names = list(VALUES)
    for number, place in enumerate(places):
        shown = ".".join(map(str, place))
        some = names if every or len(places) < 25 else [names[(number + n) % 10] for n in (0, 3, 7)]
        for name in some:
            yield Case(
                name=f"{shown} is {name}",
                damage=text(_with(document, place, VALUES[name])),
            )
        if isinstance(place[-1], str):
            yield Case(
                name=f"{shown} is missing",
                damage=text(_without(document, place)),
            )
    for place in [(), *(p for p in places if isinstance(_at(document, p), dict))]:
        shown = ".".join(map(str, place)) or "the top"
        holder = _at(document, place)
        if not holder:
            continue
        key = next(iter(holder))
        unknown = _with(document, place, json.dumps({**holder, "unheard_of": 1}))
        yield Case(name=f"{shown} is unknown", damage=text(unknown))
        twice = json.dumps(holder)[:-1] + f", {json.dumps(key)}: {json.dumps(holder[key])}}}"
        yield Case(name=f"{shown} has a key twice", damage=text(_with(document, place, twice)))


def of_weights(whole: bytes) -> Iterator[Case]:
    """What may be wrong with safetensors: a length, a header of JSON, and bytes behind it."""
    size = struct.unpack("<Q", whole[:8])[0]
    header, body = json.loads(whole[8 : 8 + size]), whole[8 + size :]

    def packed(changed: str) -> Callable[[Path], None]:
        return data(struct.pack("<Q", len(changed.encode())) + changed.encode() + body)

    for length in (0, 1, size - 1, size + 1, 1 << 27, 1 << 40, (1 << 64) - 1):
        yield Case(name=f"header of {length}", damage=data(struct.pack("<Q", length) + whole[8:]))
    yield Case(name="a byte too many", damage=data(whole + b"\0"))
    yield Case(name="header of brackets", damage=packed("[" * 10_000))
    yield Case(name="header of a list", damage=packed("[]"))
    yield Case(name="header of nothing", damage=packed("{}"))
    name = next(key for key in header if key != "__metadata__")
    for part, values in {
        "dtype": ['"F17"', "null", "3", '"I64"', "[]"],
        "shape": ["null", "[-1]", "[1e300]", "3", "[[1]]", '["a"]', f"[{10**30}]", f"[{2**62}, 4]"],
        "data_offsets": ["null", "[0]", "[5, 1]", "[-1, 3]", f"[0, {2**63}]", "[0, 1, 2]", '"a"'],
    }.items():
        for value in values:
            yield Case(
                name=f"{part} {value[:20]}", damage=packed(_with(header, (name, part), value))
            )
    twice = json.dumps(header)[:-1] + f", {json.dumps(name)}: {json.dumps(header[name])}}}"
    yield Case(name="a tensor twice", damage=packed(twice))
    if header[name]["dtype"] == "F32":
        start, end = header[name]["data_offsets"]
        for number in (float("nan"), float("inf"), -3e38):
            changed = body[:start] + struct.pack("<f", number) + body[start + 4 :]
            wrong = whole[: 8 + size] + changed
            yield Case(name=f"a weight of {number}", damage=data(wrong))


def _places(value: Any, at: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    """Where values are; of a list the first two."""
    if at:
        yield at
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _places(inner, (*at, key))
    elif isinstance(value, list):
        for place, inner in enumerate(value[:2]):
            yield from _places(inner, (*at, place))


def _at(document: Any, place: tuple[str | int, ...]) -> Any:
    for key in place:
        document = document[key]
    return document


def _with(document: Any, place: tuple[str | int, ...], raw: str) -> str:
    """The document with raw JSON in a place."""
    if not place:
        return raw
    changed = json.loads(json.dumps(document))
    _at(changed, place[:-1])[place[-1]] = _HERE
    return json.dumps(changed).replace(json.dumps(_HERE), raw)


def _without(document: Any, place: tuple[str | int, ...]) -> str:
    changed = json.loads(json.dumps(document))
    del _at(changed, place[:-1])[place[-1]]
    return json.dumps(changed)


class TooLong(BaseException):
    """A file was read for too long; no reader catches this."""


def _stop(number: int, frame: FrameType | None) -> None:
    raise TooLong


def cases(kind: Kind, whole: bytes, every: bool) -> Iterator[Case]:
    yield from of_any_file(kind, whole)
    if kind.form in ("text", "document"):
        yield from of_texts(kind, whole)
    if kind.form == "document":
        yield from of_documents(kind, whole, every)
    if kind.form == "weights":
        yield from of_weights(whole)


def try_kind(kind: Kind, folder: Path, report: Report, every: bool) -> None:
    """Every case of a kind, each in a folder as it should be but for one file."""
    good = folder / "good"
    good.mkdir()
    file = kind.write(good)
    kind.read(file)  # it is good
    whole, relative = file.read_bytes(), file.relative_to(good)
    for case in cases(kind, whole, every):
        report.count += 1
        here = folder / "here"
        shutil.copytree(good, here, symlinks=True, copy_function=_linked)
        damaged = here / relative
        damaged.unlink()  # it is a link to the good one
        damaged.write_bytes(whole)
        case.damage(damaged)
        said = verdict(kind, case, damaged, report)
        if said is not None:
            report.wrong.append(f"{kind.name}, {case.name}: {said}")
        shutil.rmtree(here)


def _linked(source: str, target: str) -> None:
    os.link(source, target)


def verdict(kind: Kind, case: Case, file: Path, report: Report) -> str | None:
    """What is wrong with how a file was taken; None if nothing is."""
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    signal.setitimer(signal.ITIMER_REAL, 12 * SECONDS)
    found: str | None
    try:
        kind.read(file)
        good = case.legal is not False or kind.takes(case.name)
        found = None if good else "accepted"
        report.accepted.append(f"{kind.name}, {case.name}")
    except (ValueError, OSError) as error:
        found = _of_message(error, file)
        if case.legal is True:
            found = f"refused: {error!s:.200}"
    except TooLong:
        found = "never ends"
    except Exception as error:  # whatever a user would have met
        found = f"{type(error).__name__} {str(error)!r:.160}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    seconds = time.process_time() - began
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    if seconds > SECONDS:
        return f"takes {seconds:.1f} s"
    return f"takes {memory >> 20} MiB" if memory > MEMORY else found


def _of_message(error: Exception, file: Path) -> str | None:
    """What is wrong with an error: it names the file, and is a sentence in one line."""
    if type(error).__module__ not in ("builtins", "longlive_models.finite"):
        return f"{type(error).__module__}.{type(error).__name__}"
    said = str(error)
    if isinstance(error, OSError):  # the command line makes its sentence of the name
        return None if error.filename else f"OSError without a name: {said!r:.160}"
    named = file.name in said or str(file.parent) in said
    if not named or len(said) < 40 or len(said) > 1500 or not said.isprintable():
        return f"says {said!r:.300}"
    return None if said.rstrip().endswith((".", ".)")) else f"no full stop: {said!r:.300}"


def main() -> int:
    """Try everything; the number of cases that went wrong."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("kinds", nargs="*")
    options.add_argument("--every", action="store_true")
    options.add_argument("--accepted", action="store_true", help="say what was read")
    given = options.parse_args()
    signal.signal(signal.SIGALRM, _stop)
    warnings.simplefilter("ignore")
    report = Report()
    for kind in KINDS:
        if given.kinds and kind.name not in given.kinds:
            continue
        with tempfile.TemporaryDirectory() as folder:
            try_kind(kind, Path(folder).resolve(), report, given.every)
    if given.accepted:
        print("\n".join(report.accepted))
    print("\n".join([*report.wrong, f"{report.count} cases"]))
    return len(report.wrong)


if __name__ == "__main__":
    sys.exit(min(main(), 100))
