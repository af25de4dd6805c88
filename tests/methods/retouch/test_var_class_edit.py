"""Editing by scale: the picture's own noise gives the picture back, and another prompt another picture."""

from pathlib import Path

import pytest
import torch

from tests.methods.retouch.pictures import SIDE, drawn, own_prefixes, picture, request
from tests.tiny import tiny_var
from workbench.core.ask import Ask
from workbench.core.errors import AskError
from workbench.core.tape import ignore
from workbench.methods.decode.var import Var
from workbench.methods.retouch.var_class_edit import VarClassEdit
from workbench.methods.retouch.var_inpaint import VarInpaint

INVERT = {"guidance": 1.5, "start": 0}


def asked(folder: Path, prompt: str = "class:1") -> Ask:
    return Ask(prompts=(prompt, prompt), seeds=(5, 6), image=picture(folder))


def near(states: list[torch.Tensor], ask: Ask) -> bool:
    """Whether every state is the picture's own; rounding of two rows against one, another token is off by about 1."""
    return all(
        torch.allclose(state, own.expand(2, -1, -1, -1), rtol=0, atol=1e-5)
        for state, own in zip(states, own_prefixes(ask), strict=True)
    )


def test_under_the_source_prompt_the_noise_gives_the_picture_back(tmp_path: Path) -> None:
    ask = asked(tmp_path)
    _, states = drawn(VarClassEdit(source="class:1", **INVERT), ask)
    assert near(states, ask)


def test_under_another_prompt_the_picture_changes_and_fresh_noise_changes_it_more(tmp_path: Path) -> None:
    ask = asked(tmp_path, "class:2")
    own = own_prefixes(ask)[-1]
    far = {mode: (drawn(VarClassEdit(source="class:1", mode=mode, **INVERT), ask)[1][-1] - own).square().mean().item()
           for mode in ("invert", "fresh")}  # fmt: skip
    assert 0 < far["invert"] < far["fresh"]


def test_fresh_without_a_mask_and_without_kept_scales_is_plain_decoding(tmp_path: Path) -> None:
    ask = asked(tmp_path)
    _, states = drawn(VarClassEdit(mode="fresh", **INVERT), ask)
    _, plain = drawn(Var(guidance=1.5, top_p=1.0), ask.but(image=None))
    assert all(map(torch.equal, states, plain))


@pytest.mark.parametrize("mode", ["invert", "fresh"])
def test_kept_scales_are_the_pictures_own(mode: str, tmp_path: Path) -> None:
    ask = asked(tmp_path, "class:2")
    own = own_prefixes(ask)
    _, states = drawn(VarClassEdit(source="class:1", mode=mode, guidance=1.5, start=3), ask)
    for k in range(3):
        torch.testing.assert_close(states[k], own[k].expand(2, -1, -1, -1), rtol=0, atol=1e-5)
    assert not torch.allclose(states[5], own[5].expand(2, -1, -1, -1))
    _, whole = drawn(VarClassEdit(source="class:1", mode=mode, guidance=1.5, start=6), ask)
    assert near(whole, ask)


def test_fresh_with_a_mask_is_inpainting_under_the_prompt(tmp_path: Path) -> None:
    ask = request(tmp_path, slice(6, SIDE))
    mine, _ = drawn(VarClassEdit(mode="fresh", start=0, guidance=1.5, top_p=0.9), ask)
    other, _ = drawn(VarInpaint(guidance=1.5, top_p=0.9), ask)
    assert torch.equal(mine, other)


def test_the_noise_depends_on_the_rows_seed_alone(tmp_path: Path) -> None:
    ask = asked(tmp_path, "class:2")
    sampler = VarClassEdit(source="class:1", **INVERT)
    both, _ = drawn(sampler, ask)
    for i in range(2):
        alone, _ = drawn(sampler, ask.row(i))
        assert (both[i].int() - alone[0].int()).abs().max() <= 1


def test_a_missing_picture_and_an_unknown_class_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AskError, match="there is none"):
        VarClassEdit().sample(tiny_var(), Ask(prompts="class:1"), ignore)
    with pytest.raises(AskError, match="classes of tiny-var are 0 to 4"):
        VarClassEdit(source="class:9").sample(tiny_var(), asked(tmp_path), ignore)
