"""The models of LongLive, and the pipeline that makes videos with them.

A public name is imported when it is first used. So a module that does not need torch, such as
``longlive_models.prompts.storyboard``, can be imported without it.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from longlive_models.callbacks import StepReport as StepReport
    from longlive_models.finite import NonFiniteVideo as NonFiniteVideo
    from longlive_models.pipeline import LongLivePipeline as LongLivePipeline
    from longlive_models.prompts.storyboard import Shot as Shot
    from longlive_models.prompts.storyboard import Storyboard as Storyboard
    from longlive_models.stream import Stream as Stream
    from longlive_models.stream import Video as Video
else:
    from longlive_models.lazy import lazy as _lazy

    __getattr__, __dir__ = _lazy(
        __name__,
        {
            "LongLivePipeline": "pipeline",
            "NonFiniteVideo": "finite",
            "Shot": "prompts.storyboard",
            "StepReport": "callbacks",
            "Storyboard": "prompts.storyboard",
            "Stream": "stream",
            "Video": "stream",
        },
    )
