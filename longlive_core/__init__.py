"""Primitives for long autoregressive video generation; needs torch alone."""

__version__ = "0.2.0"
