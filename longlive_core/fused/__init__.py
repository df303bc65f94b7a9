"""What a transformer's block computes between its products, in one pass over the memory each.

Three operations, each a table of backends with the plain path last: residual, norm and modulation
(``NORM``); norm over all heads and rotation (``ROTATE``); GELU (``GELU``). Any of them may also
round rows to E4M3 for the product that follows. Tensors in, tensors out; no model is known here.
"""

from longlive_core.fused.gelu_ops import GELU as GELU
from longlive_core.fused.gelu_ops import gelu as gelu
from longlive_core.fused.norm_ops import NORM as NORM
from longlive_core.fused.norm_ops import Affine as Affine
from longlive_core.fused.norm_ops import Modulation as Modulation
from longlive_core.fused.norm_ops import add as add
from longlive_core.fused.norm_ops import add_norm as add_norm
from longlive_core.fused.norm_ops import norm as norm
from longlive_core.fused.rotate_ops import ROTATE as ROTATE
from longlive_core.fused.rotate_ops import rotate_heads as rotate_heads
from longlive_core.fused.rotate_ops import turn as turn
