"""Triton kernels of eight-bit rows and pages; NVFP4's kernels share their E4M3 arithmetic."""
