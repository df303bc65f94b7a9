"""Reports of what a model leaves out of prompts, such as words that it does not know. No torch.

A prompt with such words is not refused: a warning names them when a video begins or is steered,
and they are in ``Video.unknown_words`` and in every record. The rest of the prompt is shown.
"""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from longlive_core.names import few, nearest

_SHOWN = 12
_LISTED = 200
_NEAR = 0.75


class PromptWarning(UserWarning):
    """The warning that a part of what was asked for will not be in the video."""


@dataclass(frozen=True, kw_only=True)
class PromptReport:
    """What a text encoder leaves out of one prompt.

    Attributes:
        unknown: words that it does not know, each once, in order.
        left_out: the end of the prompt past its limit; "" for none.
        limit: how many words or tokens it reads, as text: "31 words".
    """

    unknown: tuple[str, ...] = ()
    left_out: str = ""
    limit: str = ""


@runtime_checkable
class PromptReader(Protocol):
    """A protocol of text encoders that can report what they leave out of a prompt."""

    @property
    def known_words(self) -> tuple[str, ...]:
        """All words that the encoder knows; None if it makes any word of pieces."""

    def read(self, prompt: str) -> PromptReport:
        """Report what the encoder leaves out of a prompt."""


@dataclass(frozen=True, kw_only=True)
class NotShown:
    """The parts of what was asked for that are not in a video.

    Attributes:
        unknown_words: words of prompts that the model does not know.
        words_left_out: ends of prompts past the model's limit.
        shots_left_out: prompts of shots that begin after the video's end, or have no duration.
        unknown_negative_words: words of the negative prompt that the model does not know.
    """

    unknown_words: tuple[str, ...] = ()
    words_left_out: tuple[str, ...] = ()
    shots_left_out: tuple[str, ...] = ()
    unknown_negative_words: tuple[str, ...] = ()


def not_shown(
    reader: object,
    prompts: Iterable[tuple[str, str]],
    shots_left_out: Sequence[str] = (),
    *,
    negative: str = "",
) -> NotShown:
    """List what a video of these prompts will lack.

    Args:
        reader: the text encoder, which is asked if it is a ``PromptReader``.
        prompts: pairs of each prompt as it was given and as it is encoded (after a cut it has a
            prefix).
        shots_left_out: prompts that are not shown at all.
        negative: the negative prompt; "" for none.
    """
    away: tuple[str, ...] = ()
    unknown: dict[str, None] = {}
    ends: dict[str, None] = {}
    if isinstance(reader, PromptReader):
        away = tuple(dict.fromkeys(reader.read(negative).unknown)) if negative else ()
        for given, read in prompts:
            unknown |= dict.fromkeys(reader.read(given).unknown)
            if end := reader.read(read).left_out:
                ends[end] = None
    return NotShown(
        unknown_words=tuple(unknown),
        words_left_out=tuple(ends),
        shots_left_out=tuple(shots_left_out),
        unknown_negative_words=away,
    )


def warn_of(found: NotShown, reader: object) -> None:
    """Warn of what a video lacks, with a ``PromptWarning`` for each kind."""
    for line in lines_about(found, reader):
        warnings.warn(line, PromptWarning, stacklevel=3)


def lines_about(found: NotShown, reader: object) -> list[str]:
    """Lines of text about what a video lacks, with the way out: one for each kind."""
    lines = []
    known = reader.known_words if isinstance(reader, PromptReader) else ()
    if found.unknown_words:
        words = few([_with_hint(word, known) for word in found.unknown_words], _SHOWN)
        lines.append(
            f"the model does not know {words}: what they name will not be in the video. "
            f"{_vocabulary(known)}"
        )
    if found.unknown_negative_words:
        words = few([_with_hint(word, known) for word in found.unknown_negative_words], _SHOWN)
        lines.append(
            f"the model does not know {words} of the negative prompt: the video will not move away "
            f"from what they name. {_vocabulary(known)}"
        )
    if found.words_left_out:
        limit = reader.read(" ").limit if isinstance(reader, PromptReader) else ""
        ends = few([repr(_short(end)) for end in found.words_left_out], _SHOWN)
        lines.append(
            f"the model reads the first {limit} of a prompt, so these ends are left out: {ends}. "
            f"Say it in fewer words, or in several shots."
        )
    if found.shots_left_out:
        count = len(found.shots_left_out)
        shots = few([repr(_short(prompt)) for prompt in found.shots_left_out], _SHOWN)
        lines.append(
            f"{count} {'shot begins' if count == 1 else 'shots begin'} after the video's end, or "
            f"without a duration, so not shown: {shots}. Make the video longer, or leave "
            f"{'it' if count == 1 else 'them'} out."
        )
    return lines


def _with_hint(word: str, known: Sequence[str]) -> str:
    near = nearest(word, known, likeness=_NEAR)
    return f"{_short(word)!r}{f' (did you mean {near!r}?)' if near else ''}"


def _vocabulary(known: Sequence[str]) -> str:
    if not known:
        return "Use other words."
    if len(known) > _LISTED:
        return f"It knows {len(known)} words; use others."
    return f"It knows {', '.join(sorted(known))}."


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
