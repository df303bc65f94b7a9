"""Keys and values of past blocks, in pages. README.md beside this file has a worked example."""

from longlive_core.eight_bit.int8_codec import Int8PageCodec as Int8PageCodec
from longlive_core.kv_cache.cache import PagedKVCache as PagedKVCache
from longlive_core.kv_cache.codec import PageCodec as PageCodec
from longlive_core.kv_cache.codec import PageShape as PageShape
from longlive_core.kv_cache.codec import PlainCodec as PlainCodec
from longlive_core.kv_cache.content import ContentPolicy as ContentPolicy
from longlive_core.kv_cache.content import PageChoice as PageChoice
from longlive_core.kv_cache.layer import LayerCache as LayerCache
from longlive_core.kv_cache.layout import CacheBytes as CacheBytes
from longlive_core.kv_cache.layout import CacheLayout as CacheLayout
from longlive_core.kv_cache.page_table import PageTable as PageTable
from longlive_core.kv_cache.positions import AbsolutePositions as AbsolutePositions
from longlive_core.kv_cache.positions import Places as Places
from longlive_core.kv_cache.positions import PositionPolicy as PositionPolicy
from longlive_core.kv_cache.positions import RelativePositions as RelativePositions
from longlive_core.kv_cache.snapshot import CacheSnapshot as CacheSnapshot
from longlive_core.kv_cache.window import LastingPages as LastingPages
from longlive_core.kv_cache.window import Window as Window
from longlive_core.kv_cache.window import WindowPolicy as WindowPolicy
