"""Readers of JSON and YAML files that people and other programs wrote.

A file must be UTF-8 text of a bounded size in which every key of an object stands once, numbers
are finite and values are nested at most ``DEEPEST`` deep; anything else is a ValueError that says
where and why. ``longlive_models.schema`` makes dataclasses of the values. Needs no torch.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

LARGEST = 100 << 20
"""The most bytes of a document. It is held in memory whole; configs, indexes, records and lists of
prompts are far smaller."""

DEEPEST = 64
"""The most levels of nesting: a reader of a document calls itself once for each level."""

MOST_DIGITS = 400
"""The most digits of a whole number: more than a float can hold, and converting many is slow."""

LARGEST_YAML = 1 << 20
"""The most bytes of a YAML file. People write these by hand, and YAML is slow to read."""

_MOST_ALIASED = 1_000_000
_LFS = "version https://git-lfs"
_MERGE = "tag:yaml.org,2002:merge"


def read_text(path: str | Path, what: str = "this file", most: int = LARGEST) -> str:
    """Read the text of a UTF-8 file, without its byte order mark; line ends stay as they are.

    Args:
        path: the file.
        what: what the file is meant to be, for messages.
        most: the most bytes that it may have.

    Raises:
        ValueError: the file is missing, cannot be read, is too large, or is not UTF-8.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}): it is where {what} is looked for. "
            f"Check the path."
        ) from error
    if len(data) > most:
        raise ValueError(
            f"{path} has more than {most >> 20} MiB: {what} is read into memory whole, and none "
            f"is as large. Check the path, or split the file."
        )
    marked, nul = data[:2] in (b"\xff\xfe", b"\xfe\xff"), b"\0" in data[:4]
    wide = marked or (nul and data[:2] != b"\0\0")
    try:
        if wide or nul:
            place = 0 if data[0] > 0x7F else data.index(0)
            raise UnicodeDecodeError("utf-8", data, place, place + 1, "UTF-16")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        seen = ", as UTF-16 has it" if wide else ", as files have that are no text" if nul else ""
        way_out = "Name another file" if nul and not wide else "Save the file as UTF-8"
        raise ValueError(
            f"{path}: {what} is UTF-8 text, got the byte {data[error.start]:#04x} at "
            f"{error.start}{seen}: it means nothing there. {way_out}."
        ) from error


def lines_of(text: str) -> list[str]:
    """Split a text into lines at LF, CRLF and CR, as editors do.

    ``str.splitlines`` also splits at U+2028, U+0085 and others, which occur within prompts.
    """
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def read_json(path: str | Path, what: str = "this file") -> dict[str, Any]:
    """Read the object in a JSON file. Raises ValueError, with the file's name, if it has none."""
    return _object(parse_json(read_text(path, what), str(path)), str(path), what)


def read_yaml(path: str | Path, what: str = "this file") -> dict[str, Any]:
    """Read the mapping in a YAML file. Raises ValueError, with the file's name, if it has none."""
    import yaml

    text = read_text(path, what, LARGEST_YAML)
    try:
        value = yaml.load(text, _loader())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}.") from error
    except RecursionError as error:
        raise ValueError(_too_deep(str(path))) from error
    except ValueError as error:  # a date or a number that is none
        raise ValueError(f"{path} is not YAML: {error}. Put what is text in quotes.") from error
    _check_values(value, str(path), finite=False)
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no fields: write one `name: value` a line.")
    return value


def to_json(value: Any, what: str, indent: int | None = None) -> str:
    """Write plain values as a JSON text, which ``parse_json`` reads back.

    Raises:
        ValueError: a value that JSON cannot express, such as NaN or an object of a class. The
            message calls the whole ``what``.
    """
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{what} cannot be written as JSON ({error}): it is read back as plain values. Use "
            f"texts, finite numbers, true, false, None, lists, and mappings of texts to them."
        ) from error


def parse_json(text: str, where: str) -> Any:
    """Parse a JSON text.

    Args:
        text: a whole document, or one line of a file that has a document on each line.
        where: the file, and perhaps the line, for messages.

    Raises:
        ValueError: the text is not JSON, an object has a key twice, a number is NaN, infinite or
            too large, values are nested too deep, or a text has a surrogate without its pair.
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique(where),
            parse_constant=_refuse_constant(where),
            parse_float=_float(where),
            parse_int=_int(where),
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON ({_what_else(text, error)}") from error
    except RecursionError as error:
        raise ValueError(_too_deep(where)) from error
    _check_values(value, where)
    return value


def _what_else(text: str, error: json.JSONDecodeError) -> str:
    """End a message about a text that is not JSON: what it seems to be, and the way out."""
    start = text.lstrip()[:64].lower()
    if not start:
        return "it is empty): it was written in part, or not at all. Write or fetch it again."
    if start.startswith(_LFS):
        return "it is a Git LFS pointer): its content was not fetched. Run `git lfs pull`."
    if start.startswith(("<!doctype", "<html", "<?xml")):
        return "it is a web page): a download got an answer of another kind. Fetch it again."
    return (
        f"{error.msg} at line {error.lineno}, column {error.colno}): keys and texts stand in "
        f"double quotes, and no comma is last. Mend it, or write it again."
    )


def _object(value: Any, where: str, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(
            f"{where} must hold an object {{...}}, got {_KINDS[type(value)]}: {what} has named "
            f"values. Write it again, or name another file."
        )
    return value


_KINDS = {
    list: "a list",
    str: "a text",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}


def _unique(where: str) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(
                f"{where}: the key {twice[:60]!r} stands twice in one object: one of them would be "
                f"lost. Remove one."
            )
        return values

    return build


def _refuse_constant(where: str) -> Callable[[str], None]:
    def refuse(name: str) -> None:
        raise ValueError(
            f"{where}: {name} is no number of JSON, and none that means anything here: numbers "
            f"are finite. Mend it, or write the file again."
        )

    return refuse


def _float(where: str) -> Callable[[str], float]:
    def read(text: str) -> float:
        number = float(text)
        if not math.isfinite(number):
            raise ValueError(
                f"{where}: {text[:20]} is larger than any number can be here: numbers are finite. "
                f"Mend it, or write the file again."
            )
        return number

    return read


def _int(where: str) -> Callable[[str], int]:
    def read(text: str) -> int:
        digits = len(text.removeprefix("-"))
        if digits > MOST_DIGITS:
            raise ValueError(
                f"{where}: a whole number of {digits} digits is larger than any number can be "
                f"here. Mend it, or write the file again."
            )
        return int(text)

    return read


def _check_values(value: Any, where: str, *, finite: bool = True) -> None:
    """Raise ValueError for too many levels or aliases, lone surrogates and too large numbers."""
    level, depth, count = [value], 0, 0
    while level:
        depth, count = depth + 1, count + len(level)
        if depth > DEEPEST:
            raise ValueError(_too_deep(where))
        if count > _MOST_ALIASED and not finite:
            raise ValueError(
                f"{where} has aliases that repeat its values more than {_MOST_ALIASED:,} times. "
                f"Write the values out."
            )
        inner: list[Any] = []
        for item in level:
            _check_leaf(item, where)
            if isinstance(item, Mapping):
                inner += [*item.keys(), *item.values()]
            elif isinstance(item, list | tuple | set):
                inner += item
        level = inner


def _check_leaf(item: Any, where: str) -> None:
    if isinstance(item, str) and not item.isascii():
        try:
            item.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{where}: a text has half a character (\\u{ord(item[error.start]):04x}): alone it "
                f"stands for nothing. Write the character itself, in UTF-8."
            ) from error
    elif isinstance(item, float) and math.isnan(item):
        raise ValueError(
            f"{where}: NaN is no number that means anything here. Mend it, or leave it out."
        )
    elif isinstance(item, int) and item.bit_length() > 4 * MOST_DIGITS:
        raise ValueError(
            f"{where}: a whole number of {item.bit_length()} bits is larger than any number can be "
            f"here. Mend it."
        )


def _too_deep(where: str) -> str:
    return (
        f"{where} nests values more than {DEEPEST} deep: nothing that is read here does. "
        f"Name another file, or write it again."
    )


def _loader() -> Any:
    """PyYAML's safe loader, which refuses a key that stands twice."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen: set[str] = set()
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                    continue
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} stands twice", key.start_mark
                    )
                seen.add(key.value)
            return super().construct_mapping(node, deep)

    return Loader
