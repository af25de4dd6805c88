"""Visual autoregressive models: the multi-scale VQ autoencoder and the next-scale transformer."""

from workbench.models.var.transformer import VARTransformer
from workbench.models.var.vq import MultiScaleVQ

__all__ = ["MultiScaleVQ", "VARTransformer"]
