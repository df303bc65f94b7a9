"""The two number formats of eight bits: which types hold their codes, and the largest of each."""

import torch

LARGEST = {torch.float8_e4m3fn: 448.0, torch.int8: 127.0}
"""The largest code of each format."""
