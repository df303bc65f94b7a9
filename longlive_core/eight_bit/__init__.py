"""Numbers in a byte each, E4M3 or INT8: rows with a scale, and pages of them for a cache.

`float8` and `kv_cache` use this package; it knows neither.
"""

from longlive_core.eight_bit.int8_codec import Int8PageCodec as Int8PageCodec
from longlive_core.eight_bit.page_codec import EightBitPageCodec as EightBitPageCodec
