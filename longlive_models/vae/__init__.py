"""The Wan2.2 VAE, which is causal and can encode and decode a video in pieces."""

from longlive_models.vae.autoencoder import WanVAE as WanVAE
from longlive_models.vae.checkpoint import load_vae as load_vae
from longlive_models.vae.checkpoint import load_weights as load_weights
from longlive_models.vae.chunked_encode import encode_chunk as encode_chunk
from longlive_models.vae.chunked_encode import encode_part as encode_part
from longlive_models.vae.chunked_encode import encode_window as encode_window
from longlive_models.vae.config import POCKET_VAE as POCKET_VAE
from longlive_models.vae.config import WAN22_VAE as WAN22_VAE
from longlive_models.vae.config import VAEConfig as VAEConfig
from longlive_models.vae.decoding import DecodeOptions as DecodeOptions
from longlive_models.vae.streaming import StreamState as StreamState
