"""The check of a prompt: it is a text with at least one visible character."""

import unicodedata
from typing import Any

from longlive_core.checks import shown

_FILLERS = "\u115f\u1160\u2800\u3164\uffa0"
"""Letters and a symbol that are invisible: Hangul's fillers and Braille's empty cell."""


def require_prompt(prompt: Any) -> None:
    """Raise ValueError unless ``prompt`` is a text with at least one visible character."""
    if not isinstance(prompt, str):
        raise ValueError(
            f"a prompt is a text, got {shown(prompt)}: it says what to show. Put it in quotes."
        )
    hidden = next((sign for sign in prompt if _is_control(sign)), None)
    if hidden is not None:
        raise ValueError(
            f"a prompt is plain text, got the control character U+{ord(hidden):04X} in "
            f"{shown(prompt)}: no model reads it, and a terminal would obey it. Remove it."
        )
    if not any(map(_is_seen, prompt)):
        raise ValueError(
            f"a prompt needs at least one word, got {shown(prompt)}: it says what to show. "
            f"Write for example 'a red circle moves right on a navy background'."
        )


def _is_control(sign: str) -> bool:
    return unicodedata.category(sign) in ("Cc", "Cs") and not sign.isspace()


def _is_seen(sign: str) -> bool:
    """Whether a character leaves a mark: neither a space nor a formatting or filling one."""
    return not sign.isspace() and sign not in _FILLERS and unicodedata.category(sign)[0] in "LNPS"
