"""NVFP4 numbers. README.md beside this file has the equations; reference.py is the meaning."""

from longlive_core.nvfp4.format import QuantizeConfig as QuantizeConfig
from longlive_core.nvfp4.format import ScaleRule as ScaleRule
from longlive_core.nvfp4.quantize import DEQUANTIZE as DEQUANTIZE
from longlive_core.nvfp4.quantize import QUANTIZE as QUANTIZE
from longlive_core.nvfp4.quantize import dequantize as dequantize
from longlive_core.nvfp4.quantize import quantize as quantize
from longlive_core.nvfp4.quantize import tensor_amax as tensor_amax
from longlive_core.nvfp4.tensor import NVFP4Tensor as NVFP4Tensor
