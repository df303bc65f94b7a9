"""Decodes finished blocks while the next one is denoised: ``submit``, ``ready``, ``finish``."""

from longlive_core.async_decode.host_copy import start_host_copy as start_host_copy
from longlive_core.async_decode.host_ring import HostCopy as HostCopy
from longlive_core.async_decode.host_ring import HostRing as HostRing
from longlive_core.async_decode.lanes import InlineLane as InlineLane
from longlive_core.async_decode.lanes import Lane as Lane
from longlive_core.async_decode.lanes import LaneClosed as LaneClosed
from longlive_core.async_decode.lanes import LaneTask as LaneTask
from longlive_core.async_decode.lanes import Outcome as Outcome
from longlive_core.async_decode.lanes import StreamLane as StreamLane
from longlive_core.async_decode.lanes import ThreadLane as ThreadLane
from longlive_core.async_decode.lanes import Ticket as Ticket
from longlive_core.async_decode.lanes import make_lane as make_lane
from longlive_core.async_decode.scheduler import AsyncDecodeScheduler as AsyncDecodeScheduler
from longlive_core.async_decode.trace import Span as Span
