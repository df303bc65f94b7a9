"""Keys and values of past blocks, in pages."""

from longlive_core.kv_cache.window import Window as Window
from longlive_core.kv_cache.window import WindowPolicy as WindowPolicy
