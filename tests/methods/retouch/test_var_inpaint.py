"""Inpainting by scale: what is kept and what is new, against a slow twin of the whole run."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.methods.retouch.pictures import SIDE, drawn, own_prefixes, request
from tests.tiny import tiny_sd, tiny_var
from workbench.core.errors import AskError, UnsupportedFamily
from workbench.core.tape import ignore
from workbench.methods.decode.var import Var
from workbench.methods.retouch.var_inpaint import VarInpaint

PLAIN = {"guidance": 1.5, "top_p": 0.9, "paste": False}
MODES = ["requantise", "replace"]


@pytest.mark.parametrize("keep", MODES)
def test_where_everything_is_kept_the_pictures_own_states_come_back(keep: str, tmp_path: Path) -> None:
    ask = request(tmp_path, None)
    _, states = drawn(VarInpaint(keep=keep, **PLAIN), ask)
    for state, own in zip(states, own_prefixes(ask), strict=True):
        # the convolutions of two rows round otherwise than those of one; another token would be off by about 1
        torch.testing.assert_close(state, own.expand(2, -1, -1, -1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("keep", MODES)
def test_where_everything_is_new_it_is_plain_decoding(keep: str, tmp_path: Path) -> None:
    ask = request(tmp_path, slice(0, SIDE))
    images, states = drawn(VarInpaint(keep=keep, **PLAIN), ask)
    plain = ask.but(image=None, mask=None)
    expected, others = drawn(Var(guidance=1.5, top_p=0.9), plain)
    assert torch.equal(images, expected)
    assert all(map(torch.equal, states, others))


@pytest.mark.parametrize("keep", MODES)
def test_the_run_is_its_slow_twin(keep: str, tmp_path: Path) -> None:
    """One image, guidance off: logits of teacher forcing, the race and the mixing of codes place by place."""
    bundle = tiny_var()
    vq, net = bundle.parts["vq"], bundle.parts["var"]
    ask = request(tmp_path, slice(6, SIDE), prompts=("class:2",), seeds=(9,))
    _, states = drawn(VarInpaint(keep=keep, guidance=0.0, top_p=1.0, paste=False), ask)
    f = vq.quantise(bundle.encode(_pixels(ask)))
    source, latent = f.tokens, bundle.encode(_pixels(ask))
    generator = torch.Generator().manual_seed(9)
    x, inputs = torch.zeros_like(latent), torch.zeros(1, 129, 4)
    grids, start = [1, 2, 3, 4, 6, 8], 0
    for k, p in enumerate(grids):
        logits = net(torch.tensor([2]), inputs)[:, start : start + p * p]
        noise = torch.empty(1, p * p, 24).exponential_(generator=generator)
        tokens = (logits.softmax(-1) / noise).argmax(-1)
        for i in range(p):
            for j in range(p):
                # kept are the first 3 of 8 columns; a place stays when the bilinear mask at its centre is above 1/2
                if p * p <= 3 or _bilinear([1, 1, 1, 0, 0, 0, 0, 0], (j + 0.5) * 8 / p - 0.5) > 0.5:
                    kept = source[k][0, i * p + j]
                    if keep == "requantise":
                        wanted = _area(latent - x, p)[0, :, i, j] if p < 8 else (latent - x)[0, :, i, j]
                        kept = (vq.quantize.embedding.weight - wanted).square().sum(1).argmin()
                    tokens[0, i * p + j] = kept
        x, following = vq.accumulate(k, x, vq.embed(k, tokens))
        torch.testing.assert_close(states[k], x, rtol=1e-4, atol=1e-4)
        if k < 5:
            after = start + p * p - 1
            inputs[:, after : after + grids[k + 1] ** 2] = following.flatten(2).transpose(1, 2)
        start += p * p


def _pixels(ask: object) -> Tensor:
    from workbench.blocks.pictures import open_picture

    return torch.from_numpy(open_picture(ask.image)).permute(2, 0, 1)[None].float() / 127.5 - 1  # type: ignore[attr-defined]


def _bilinear(row: list[int], place: float) -> float:
    place = min(max(place, 0.0), len(row) - 1.0)
    low = int(place)
    high = min(low + 1, len(row) - 1)
    return row[low] + (place - low) * (row[high] - row[low])


def _area(x: Tensor, p: int) -> Tensor:
    side = x.shape[-1]
    spans = [(i * side // p, -(-(i + 1) * side // p)) for i in range(p)]
    rows = [[x[..., a:b, c:d].mean((-1, -2)) for c, d in spans] for a, b in spans]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def test_asking_for_what_is_missing_keeps_the_kept_part_nearer(tmp_path: Path) -> None:
    """Over several seeds, the kept columns of the last state are nearer to the latent than with replaced codes."""
    bundle = tiny_var()
    ask = request(tmp_path, slice(8, SIDE), prompts=("class:1",) * 8, seeds=tuple(range(8)))
    f = bundle.encode(_pixels(ask))[..., :4]
    far = {k: (drawn(VarInpaint(keep=k, **PLAIN), ask)[1][-1][..., :4] - f).square().mean().item() for k in MODES}
    assert far["requantise"] < far["replace"]


def test_kept_pixels_are_the_pictures_own(tmp_path: Path) -> None:
    ask = request(tmp_path, slice(8, SIDE))
    images, _ = drawn(VarInpaint(feather=0.0), ask)
    own = ((_pixels(ask) / 2 + 0.5) * 255).round().to(torch.uint8)
    assert torch.equal(images[..., :8], own.expand(2, -1, -1, -1)[..., :8])
    soft, _ = drawn(VarInpaint(feather=3.0), ask)
    assert torch.equal(soft[..., :8], images[..., :8])
    assert not torch.equal(soft, images)
    # from the fourth column inwards nothing is mixed
    assert torch.equal(soft[..., 11:], images[..., 11:])


def test_rows_do_not_depend_on_each_other(tmp_path: Path) -> None:
    ask, sampler = request(tmp_path, slice(4, 12)), VarInpaint(**PLAIN)
    both, _ = drawn(sampler, ask)
    for i in range(2):
        alone, _ = drawn(sampler, ask.row(i))
        assert (both[i].int() - alone[0].int()).abs().max() <= 1


def test_bad_requests_are_refused_in_a_line(tmp_path: Path) -> None:
    ask = request(tmp_path, slice(4, 12))
    with pytest.raises(AskError, match="no picture and no mask"):
        VarInpaint().sample(tiny_var(), ask.but(image=None, mask=None), ignore)
    with pytest.raises(AskError, match="there is no mask"):
        VarInpaint().sample(tiny_var(), ask.but(mask=None), ignore)
    with pytest.raises(AskError, match="vocabulary has 24"):
        VarInpaint(top_k=25).sample(tiny_var(), ask, ignore)
    with pytest.raises(AskError, match="anew"):
        VarInpaint().sample(tiny_var(prediction="direct"), ask, ignore)
    with pytest.raises(UnsupportedFamily):
        VarInpaint().check(tiny_sd())
