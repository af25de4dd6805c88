"""Token merging: parity with tomesd on a tiny UNet, the same picture in any batch, and what is refused."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.tiny import sd_pipe, tiny_sd
from workbench.blocks.denoise import condition
from workbench.blocks.merging import Spot
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle
from workbench.core.errors import AskError
from workbench.core.patch import Patch
from workbench.core.scene import using
from workbench.methods.reduce.tome import Tome
from workbench.models.unet import from_pipeline


@pytest.fixture(scope="module")
def own() -> Bundle:
    """A tiny model whose UNet the reference may patch; 17x12 latents make the grid no multiple of the tiles."""
    return from_pipeline(sd_pipe(3), name="tiny", digest="tiny-3")


def rows(bundle: Bundle, count: int, size: tuple[int, int] = (8, 8)) -> tuple[Tensor, Tensor, Any]:
    ask = Ask(prompts=["a cat", "the red dog", "a flat dog"][:count], seeds=[4, 5, 6][:count])
    x = torch.randn(count, 4, *size, generator=torch.Generator().manual_seed(0))
    return x, torch.full((count,), 500), condition(bundle, ask, False, (2 * size[1], 2 * size[0]))


@contextmanager
def reference(bundle: Bundle, **settings: Any) -> Iterator[Callable[..., Tensor]]:
    """The UNet under tomesd."""
    tomesd = pytest.importorskip("tomesd", reason="no tomesd: pip install tomesd==0.1.3")
    unet = bundle.parts["unet"]
    tomesd.apply_patch(unet, **settings)
    try:
        yield lambda x, t, cond: unet(x, t, cond.text.states, return_dict=False)[0]  # its hook wants x by place
    finally:
        tomesd.remove_patch(unet)


@pytest.mark.parity
@torch.no_grad()
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_it_equals_tomesd_without_random_tiles(own: Bundle, ratio: float, count: int) -> None:
    x, t, cond = rows(own, count)
    plain = own.predict(x, t, cond)
    with reference(own, ratio=ratio, use_rand=False) as theirs:
        expected = theirs(x, t, cond)
    with using(own, Tome(ratio=ratio, random=False)):
        found = own.predict(x, t, cond)
    assert (found - expected).abs().max() < 1e-5
    assert (found - plain).abs().max() > 1e-3


@pytest.mark.parity
@torch.no_grad()
@pytest.mark.parametrize("size", [(8, 8), (9, 14)])
def test_it_equals_tomesd_at_every_part_and_level_and_on_grids_that_tiles_do_not_fill(
    own: Bundle, size: tuple[int, int]
) -> None:
    x, t, cond = rows(own, 2, size)
    settings = {"merge_crossattn": True, "merge_mlp": True, "max_downsample": 2, "use_rand": False}
    with reference(own, ratio=0.6, **settings) as theirs:
        expected = theirs(x, t, cond)
    with using(own, Tome(ratio=0.6, random=False, parts=("self", "cross", "mlp"), level=1)):
        assert (own.predict(x, t, cond) - expected).abs().max() < 1e-5


@pytest.mark.parity
@torch.no_grad()
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_it_equals_tomesd_with_its_random_tiles_for_one_image(
    own: Bundle, ratio: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = Ask(prompts=["a cat"], seeds=[4])
    cond = condition(own, ask, True, (16, 16))  # two rows, as the reference draws for even batches alone
    x, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).repeat(2, 1, 1, 1), torch.full((2,), 500)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        with reference(own, ratio=ratio) as theirs:
            expected = theirs(x, t, cond)
    generator = torch.Generator().manual_seed(7)

    def draw(self: Tome, spot: Spot, cond: Any) -> Tensor:
        cells = torch.randint(4, (spot.grid[0] // 2, spot.grid[1] // 2, 1), generator=generator)
        return cells.flatten().expand(len(cond.seeds), -1)

    monkeypatch.setattr(Tome, "_draw", draw)
    with using(own, Tome(ratio=ratio)):
        assert (own.predict(x, t, cond) - expected).abs().max() < 1e-5


@torch.no_grad()
def test_equal_tokens_merge_without_loss() -> None:
    x, t, cond = rows(tiny_sd(), 2)
    block = tiny_sd().sites("block")[0]
    same = torch.randn(1, 1, 16, generator=torch.Generator().manual_seed(1)).expand(2, 64, 16).contiguous()
    plain = block.module(same, encoder_hidden_states=cond.text.states)
    seen: list[Tensor] = []

    def record(patch: Patch) -> None:
        patch.hook(block.module, lambda module, args, kwargs: ((same, *args[1:]), kwargs), "before")
        patch.hook(block.module, lambda module, args, kwargs, output: seen.append(output))

    with using(tiny_sd(), Tome(ratio=0.75), record=record):
        tiny_sd().predict(x, t, cond)
    assert_close(seen[0], plain, atol=1e-5, rtol=0)


@torch.no_grad()
def test_rows_of_one_seed_share_their_tiles_and_other_seeds_do_not() -> None:
    cond = condition(tiny_sd(), Ask(prompts=["a cat", "a dog"], seeds=[1, 2]), True, (16, 16))
    spot = Spot(0, tiny_sd().sites("block")[0], (8, 8))
    drawn = Tome()._draw(spot, cond)
    assert drawn.shape == (4, 16)
    assert torch.equal(drawn[:2], drawn[2:])
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn, Tome()._draw(Spot(1, spot.site, spot.grid), cond))
    assert set(Tome(tile=4)._draw(spot, cond).unique().tolist()) <= set(range(16))


@torch.no_grad()
def test_a_shared_plan_is_made_once_a_level() -> None:
    x, t, cond = rows(tiny_sd(), 2)
    made: list[tuple[int, ...]] = []
    settings = {"shared": True, "level": 1}

    class Counted(Tome):
        def _plan(self, x: Tensor, spot: Spot, drawn: Tensor | None) -> Any:
            made.append(spot.grid)
            return super()._plan(x, spot, drawn)

    with using(tiny_sd(), Counted(**settings)):
        tiny_sd().predict(x, t, cond)
    assert sorted(made) == [(4, 4), (8, 8)]


def test_a_ratio_beyond_the_tiles_is_refused_and_larger_tiles_allow_it() -> None:
    with pytest.raises(AskError, match=r"tome has ratio 0\.8, must be at most 0\.75 with tile 2 \(one token of each"):
        Tome(ratio=0.8)
    assert Tome(ratio=0.8, tile=4).ratio == 0.8
    with pytest.raises(AskError, match="tome has no parts"):
        Tome(parts=())
