"""The models that LongLive is made of. Each name is imported when it is first asked for.

So a module that needs no torch, ``longlive_models.shots`` say, can be imported without it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longlive_models.callbacks import StepReport as StepReport
    from longlive_models.finite import NonFiniteVideo as NonFiniteVideo
    from longlive_models.pipeline import LongLivePipeline as LongLivePipeline
    from longlive_models.shots import Shot as Shot
    from longlive_models.shots import Storyboard as Storyboard
    from longlive_models.stream import Stream as Stream
    from longlive_models.stream import Video as Video
else:
    _HOMES = {
        "LongLivePipeline": "pipeline",
        "NonFiniteVideo": "finite",
        "Shot": "shots",
        "StepReport": "callbacks",
        "Storyboard": "shots",
        "Stream": "stream",
        "Video": "stream",
    }

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *_HOMES})
