"""Triton kernels that several number formats share."""
