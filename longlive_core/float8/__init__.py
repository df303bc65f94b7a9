"""FP8 numbers and the layer that computes with them: what makes Ada and Hopper fast."""

from longlive_core.float8.convert import convert_linears as convert_linears
from longlive_core.float8.convert import plan_conversion as plan_conversion
from longlive_core.float8.linear import Float8Config as Float8Config
from longlive_core.float8.linear import Float8Linear as Float8Linear
from longlive_core.float8.linear import linear_receipts as linear_receipts
from longlive_core.float8.matmul import matmul as matmul
from longlive_core.float8.matmul_backends import BLOCK_MATMUL as BLOCK_MATMUL
from longlive_core.float8.matmul_backends import ROW_MATMUL as ROW_MATMUL
from longlive_core.float8.page_codec import Float8PageCodec as Float8PageCodec
from longlive_core.float8.tensor import Float8Tensor as Float8Tensor
from longlive_core.float8.tensor import Scaling as Scaling
from longlive_core.float8.tensor import dequantize as dequantize
from longlive_core.float8.tensor import quantize as quantize
from longlive_core.float8.tensor import quantize_columns as quantize_columns
from longlive_core.float8.training_linear import Float8TrainingConfig as Float8TrainingConfig
from longlive_core.float8.training_linear import Float8TrainingLinear as Float8TrainingLinear
from longlive_core.float8.wire_codec import Float8WireCodec as Float8WireCodec
