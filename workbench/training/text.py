"""Train the text tower of the scorer, and so of the denoiser: the recipe that comes before `scorer`."""

from workbench.training.scorer import train_text as train

__all__ = ["train"]
