"""A tiny random scorer for the tests: a real CLIPModel with 16 patches, as a bundle of family clip."""

import dataclasses
import functools

import torch

from tests.tiny import tiny_sd, tokenizer
from workbench.core.bundle import Bundle


@functools.cache
def tiny_clip() -> Bundle:
    """The shared tiny scorer: pictures of 32 px in 4x4 patches, two layers of two heads a tower."""
    from transformers import CLIPConfig, CLIPModel

    from workbench.models.scorer import Look, bundle

    words = tokenizer()
    marks = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    common = {"intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 12}
    text = {**common, "hidden_size": 16, "vocab_size": len(words), "max_position_embeddings": 77, **marks}
    vision = {**common, "hidden_size": 24, "image_size": 32, "patch_size": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
        with torch.no_grad():  # livelier attention than a fresh model's
            for name, weight in model.named_parameters():
                if name.endswith(("q_proj.weight", "k_proj.weight")):
                    weight.mul_(20)
    return bundle(model, words, Look(32), name="tiny-clip", digest="tiny-clip-0")


@functools.cache
def seen_sd() -> Bundle:
    """The tiny Stable Diffusion bundle with the tiny scorer where the shipped one would be opened."""
    return dataclasses.replace(tiny_sd(), opener=lambda name: tiny_clip())
