"""Visual autoregressive models: the multi-scale VQ autoencoder, the next-scale transformer, and how they draw."""

from workbench.models.var.pipeline import VARPipeline
from workbench.models.var.scheduler import VARScheduler
from workbench.models.var.transformer import VARTransformer
from workbench.models.var.vq import MultiScaleVQ

__all__ = ["MultiScaleVQ", "VARPipeline", "VARScheduler", "VARTransformer"]
