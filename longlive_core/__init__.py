"""Primitives for long autoregressive video generation; needs torch alone."""

__version__ = "0.1.0"
