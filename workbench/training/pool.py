"""Encode the scenes that the denoiser trains on: the recipe that comes before `unet`, and may run beside it."""

from workbench.training.unet import fill as train

__all__ = ["train"]
