"""Primitives for long autoregressive video generation; needs torch alone."""
