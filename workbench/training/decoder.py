"""Sharpen the decoder of the autoencoder alone: may follow `vae` at any time, for latents stay as they are."""

from workbench.training.vae import refine as train

__all__ = ["train"]
