"""NVFP4 numbers. README.md beside this file has the equations; reference.py is the meaning."""

from longlive_core.nvfp4.format import QuantizeConfig as QuantizeConfig
from longlive_core.nvfp4.format import ScaleRule as ScaleRule
from longlive_core.nvfp4.hadamard import rotate as rotate
from longlive_core.nvfp4.hadamard import unrotate as unrotate
from longlive_core.nvfp4.matmul import MATMUL as MATMUL
from longlive_core.nvfp4.matmul import WEIGHT_MATMUL as WEIGHT_MATMUL
from longlive_core.nvfp4.matmul import WeightProduct as WeightProduct
from longlive_core.nvfp4.matmul import matmul as matmul
from longlive_core.nvfp4.matmul import matmul_request as matmul_request
from longlive_core.nvfp4.matmul import prepare_weight as prepare_weight
from longlive_core.nvfp4.quantize import DEQUANTIZE as DEQUANTIZE
from longlive_core.nvfp4.quantize import QUANTIZE as QUANTIZE
from longlive_core.nvfp4.quantize import QUANTIZE_BOTH as QUANTIZE_BOTH
from longlive_core.nvfp4.quantize import dequantize as dequantize
from longlive_core.nvfp4.quantize import fake_quantize as fake_quantize
from longlive_core.nvfp4.quantize import quantize as quantize
from longlive_core.nvfp4.quantize import quantize_both as quantize_both
from longlive_core.nvfp4.quantize import tensor_amax as tensor_amax
from longlive_core.nvfp4.scale_layout import swizzle as swizzle
from longlive_core.nvfp4.scale_layout import unswizzle as unswizzle
from longlive_core.nvfp4.tensor import NVFP4Tensor as NVFP4Tensor
