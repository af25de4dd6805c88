"""Outpainting by scale: where the picture lies, what is kept, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.methods.retouch.pictures import SIDE, drawn, own_prefixes, picture, request
from tests.tiny import tiny_var
from workbench.core.ask import Ask
from workbench.core.errors import AskError
from workbench.core.tape import ignore
from workbench.methods.retouch.var_inpaint import VarInpaint
from workbench.methods.retouch.var_outpaint import VarOutpaint


def asked(folder: Path) -> Ask:
    return Ask(prompts=("class:1", "class:3"), seeds=(5, 6), image=picture(folder))


def test_the_box_lies_where_it_is_put() -> None:
    assert VarOutpaint(share=0.5).box((16, 16)) == (4, 4, 12, 12)
    assert VarOutpaint(share=0.5, across=0, down=1).box((16, 16)) == (0, 8, 8, 16)
    assert VarOutpaint(share=1.0).box((16, 32)) == (0, 0, 32, 16)
    assert VarOutpaint(share=0.1, across=1.0).box((4, 4)) == (3, 2, 4, 3)


def test_a_shrunken_picture_fills_the_box_and_its_edge_the_rest() -> None:
    plain = np.zeros((16, 16, 3), np.uint8)
    plain[:, 8:] = 255
    canvas = VarOutpaint(share=0.5).surface(plain, (16, 16))
    assert canvas.new[0, 0, 4:12, 4:12].sum() == 0
    assert canvas.new.sum() == 256 - 64
    assert canvas.pixels[0, 0, 8, 4] == -1
    assert canvas.pixels[0, 0, 8, 11] == 1
    assert torch.equal(canvas.pixels[..., :4], canvas.pixels[..., 4:5].expand(-1, -1, -1, 4))


def test_without_shrinking_it_is_inpainting_around_the_middle(tmp_path: Path) -> None:
    ask = asked(tmp_path)
    values = np.full((SIDE, SIDE), 255, np.uint8)
    values[4:12, 4:12] = 0
    Image.fromarray(values).save(tmp_path / "around.png")
    mine, _ = drawn(VarOutpaint(share=0.5, shrink=False), ask)
    other, _ = drawn(VarInpaint(), ask.but(mask=tmp_path / "around.png"))
    assert torch.equal(mine, other)


def test_all_of_the_picture_kept_is_the_picture(tmp_path: Path) -> None:
    ask = asked(tmp_path)
    _, states = drawn(VarOutpaint(share=1.0, paste=False), ask)
    for state, own in zip(states, own_prefixes(ask), strict=True):
        # rounding of two rows against one; another token would be off by about 1
        torch.testing.assert_close(state, own.expand(2, -1, -1, -1), rtol=0, atol=1e-5)
    images, _ = drawn(VarOutpaint(share=1.0), ask)
    pixels = torch.from_numpy(np.array(Image.open(ask.image))).permute(2, 0, 1)  # type: ignore[arg-type]
    assert torch.equal(images, pixels.expand(2, -1, -1, -1))


def test_bad_requests_are_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(AskError, match="there is no picture"):
        VarOutpaint().sample(tiny_var(), Ask(prompts="class:1"), ignore)
    with pytest.raises(AskError, match="a mask was given"):
        VarOutpaint().sample(tiny_var(), request(tmp_path, slice(0, 4)), ignore)
