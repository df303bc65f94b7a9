"""Triton kernels of the VAE's decoder; ``fused_passes.py`` has their meaning."""
