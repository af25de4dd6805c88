"""Put the pieces that a call of the GPU tier left into assets/models, bit for bit."""

from workbench.training.gpu_loop import install as train

__all__ = ["train"]
