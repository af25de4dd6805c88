"""Sharpen the autoencoder's decoder alone: the recipe that may follow `vae` at any time, for latents stay as they are."""

from workbench.training.vae import refine as train

__all__ = ["train"]
