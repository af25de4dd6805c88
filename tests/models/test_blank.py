"""Models without files: the public architectures, with as many matrices of the right size as the real ones."""

import pytest
import torch

from workbench.blocks.closed_form import text_matrices
from workbench.models.blank import blank


@pytest.mark.parametrize(("kind", "sites", "width", "parts"), [("sd1", 16, 768, 3), ("sdxl", 70, 2048, 4)])
def test_the_public_architectures_have_their_matrices(kind, sites: int, width: int, parts: int) -> None:
    """32 keys and values in SD 1.5; 140 in SDXL, where both text encoders' widths (768 and 1280) meet in 2048."""
    bundle = blank(kind, device="meta", dtype=torch.float16)
    handles = text_matrices(bundle, "uce")
    assert len(handles) == 2 * sites
    assert {handle.weight.shape[1] for handle in handles} == {width}
    assert {handle.weight.dtype for handle in handles} == {torch.float16}
    assert len(bundle.parts) == parts
    assert bundle.shapes.text == (77, width)
    if kind == "sd1":
        assert sum(handle.weight.numel() for handle in handles) == 19_169_280
