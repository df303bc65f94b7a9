"""Numbers in a byte each, E4M3 or INT8: rows with a scale, and pages of them for a cache.

`float8` and `kv_cache` use this package; it knows neither.
"""

from longlive_core.eight_bit.columnwise import ENCODE_COLUMNS as ENCODE_COLUMNS
from longlive_core.eight_bit.columnwise import encode_columns as encode_columns
from longlive_core.eight_bit.head_window import ENCODE_WINDOW as ENCODE_WINDOW
from longlive_core.eight_bit.head_window import EncodedHeads as EncodedHeads
from longlive_core.eight_bit.head_window import encode_window as encode_window
from longlive_core.eight_bit.heads import ENCODE_HEADS as ENCODE_HEADS
from longlive_core.eight_bit.heads import decode_heads as decode_heads
from longlive_core.eight_bit.heads import encode_heads as encode_heads
from longlive_core.eight_bit.int8_codec import Int8PageCodec as Int8PageCodec
from longlive_core.eight_bit.page_codec import DECODE_BYTE_PAGES as DECODE_BYTE_PAGES
from longlive_core.eight_bit.page_codec import EightBitPageCodec as EightBitPageCodec
from longlive_core.eight_bit.rowwise import ENCODE_ROWS as ENCODE_ROWS
from longlive_core.eight_bit.rowwise import EncodedRows as EncodedRows
from longlive_core.eight_bit.rowwise import encode_rows as encode_rows
