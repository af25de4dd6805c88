"""What a scorer is shown: towers, patches, pictures, and the one error for every model that is none."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from tests.clip import seen_sd, tiny_clip
from workbench.blocks import judged
from workbench.core.bundle import Site
from workbench.core.errors import MissingPart, PatchError


def test_towers_and_patches() -> None:
    assert [site.tokens for site in judged.vision_sites(tiny_clip())] == [17, 17]
    assert [site.tokens for site in judged.text_sites(tiny_clip())] == [77, 77]
    assert judged.patches(tiny_clip()) == (4, 4)
    with pytest.raises(MissingPart, match="tiny-clip has no self-attention in a tower called vision"):
        judged.vision_sites(dataclasses.replace(tiny_clip(), all_sites=()))


def test_pixels_run_from_minus_one_to_one_and_pictures_lie_underneath() -> None:
    images = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).expand(1, 3, 2, 2).contiguous()
    assert judged.pixels_of(images, tiny_clip()).unique().tolist() == [-1.0, 1.0]
    (picture,) = judged.under(images)
    assert picture.shape == (2, 2, 3)
    assert picture.dtype == np.uint8


def test_nothing_traced_is_an_error_and_leaves_no_trace() -> None:
    site = Site("clip", "x", "self-attention", nn.Identity())
    with pytest.raises(PatchError, match="No call of clip:x was seen"), judged.traced(tiny_clip(), [site]):
        pass
    assert judged.scorer_of.__doc__
    assert seen_sd().open("anything") is tiny_clip()
