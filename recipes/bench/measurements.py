"""What does the work of the benchmarks of one model and of one device: a check, and a measurement.

``catalog`` has their names, and says what the numbers include.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from longlive_models import LongLivePipeline
from longlive_recipes.bench.generation import check_generation, measure_generation
from longlive_recipes.bench.kv_decode import check_kv_decode, kv_decode_backends, measure_kv_decode
from longlive_recipes.bench.linear import check_linear, linear_backends, measure_linear
from longlive_recipes.bench.nvfp4 import check_nvfp4, measure_nvfp4, nvfp4_backends
from longlive_recipes.bench.options import BenchOptions, Rows
from longlive_recipes.bench.vae_decode import check_vae_decode, measure_vae_decode


@dataclass(frozen=True, kw_only=True)
class PipelineMeasurement:
    """One thing to measure of a pipeline.

    Attributes:
        check: raises AssertionError where results are wrong; its return says what was compared.
        measure: a row of numbers for each case.
    """

    check: Callable[[LongLivePipeline, BenchOptions], str]
    measure: Callable[[LongLivePipeline, BenchOptions], Rows]


@dataclass(frozen=True, kw_only=True)
class DeviceMeasurement:
    """One thing to measure of a device, without a model.

    Attributes:
        check, measure: as ``PipelineMeasurement`` has them, of a device.
        backends: what does the work there, and why nothing faster does.
    """

    check: Callable[[torch.device, BenchOptions], str]
    measure: Callable[[torch.device, BenchOptions], Rows]
    backends: Callable[[torch.device, BenchOptions], list[str]]


PIPELINE_MEASUREMENTS = {
    "generation": PipelineMeasurement(check=check_generation, measure=measure_generation),
    "vae_decode": PipelineMeasurement(check=check_vae_decode, measure=measure_vae_decode),
}
DEVICE_MEASUREMENTS = {
    "kv_decode": DeviceMeasurement(
        check=check_kv_decode, measure=measure_kv_decode, backends=kv_decode_backends
    ),
    "nvfp4": DeviceMeasurement(check=check_nvfp4, measure=measure_nvfp4, backends=nvfp4_backends),
    "linear": DeviceMeasurement(
        check=check_linear, measure=measure_linear, backends=linear_backends
    ),
}
