"""The models that LongLive is made of."""

from longlive_models.callbacks import StepReport as StepReport
from longlive_models.finite import NonFiniteVideo as NonFiniteVideo
from longlive_models.pipeline import LongLivePipeline as LongLivePipeline
from longlive_models.shots import Shot as Shot
from longlive_models.shots import Storyboard as Storyboard
from longlive_models.stream import Stream as Stream
from longlive_models.stream import Video as Video
