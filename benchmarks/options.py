"""What a benchmark may be told, and the form of what it gives."""

from dataclasses import dataclass

from longlive_models.runtime_options import RuntimeOptions

Rows = dict[str, dict[str, float]]
"""Numbers by case and by name; a name says its unit."""


@dataclass(frozen=True, kw_only=True)
class Options(RuntimeOptions):
    """What is measured, and on what (``RuntimeOptions``).

    Attributes:
        model: a shipped model's name, a folder or a hub id.
        seconds: length of the video that ``generation`` makes.
        steps, guidance: the model's own unless given.
        repeats: how often every benchmark but ``generation`` does its work.
        page_tokens, heads, head_dim, pages: what one layer sees in ``kv_decode``, ``nvfp4`` and
            ``linear``; the 5B's window.
    """

    model: str = "pocket"
    seconds: float = 20.0
    steps: int | None = None
    guidance: float | None = None
    repeats: int = 5
    page_tokens: int = 7040
    heads: int = 24
    head_dim: int = 128
    pages: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("seconds", "repeats", "page_tokens", "heads", "head_dim", "pages"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}.")
