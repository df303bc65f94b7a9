"""The diffusion transformer of Wan2.2-TI2V, causal by blocks."""

from longlive_models.wan.attention import HeadExchange as HeadExchange
from longlive_models.wan.attention import Memory as Memory
from longlive_models.wan.attention import NoExchange as NoExchange
from longlive_models.wan.checkpoint import load_weights as load_weights
from longlive_models.wan.checkpoint import published_keys as published_keys
from longlive_models.wan.checkpoint import read_state_dict as read_state_dict
from longlive_models.wan.config import POCKET as POCKET
from longlive_models.wan.config import WAN_5B as WAN_5B
from longlive_models.wan.config import WanConfig as WanConfig
from longlive_models.wan.parallel import ParallelTransformer as ParallelTransformer
from longlive_models.wan.parallel import partition_blocks as partition_blocks
from longlive_models.wan.parallel import share as share
from longlive_models.wan.transformer import TextContext as TextContext
from longlive_models.wan.transformer import WanTransformer as WanTransformer
