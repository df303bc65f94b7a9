"""Triton kernels for NVFP4. They need triton to import; ``reference.py`` says what they compute."""
