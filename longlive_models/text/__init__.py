"""Text encoders, which turn prompts into the rows of features that the transformer attends to."""

from longlive_models.text.checkpoint import load_published as load_published
from longlive_models.text.checkpoint import load_umt5 as load_umt5
from longlive_models.text.encoder import TextEncoder as TextEncoder
from longlive_models.text.pocket import PocketTextConfig as PocketTextConfig
from longlive_models.text.pocket import PocketTextEncoder as PocketTextEncoder
from longlive_models.text.tokenizer import WordTokenizer as WordTokenizer
from longlive_models.text.umt5 import UMT5_XXL as UMT5_XXL
from longlive_models.text.umt5 import UMT5Config as UMT5Config
from longlive_models.text.umt5 import UMT5TextEncoder as UMT5TextEncoder
from longlive_models.text.umt5 import load_tokenizer as load_tokenizer
