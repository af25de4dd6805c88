"""Gates: what they say on paper, and one call with a gate against separate calls."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.tiny import SIDE, tiny_pixart, tiny_sd
from workbench.blocks.adapters import attach, random_adapter
from workbench.blocks.denoise import condition
from workbench.blocks.gates import Ground, Now, both, covers, places, points, region, rows, scalar, side, steps
from workbench.core.ask import Ask
from workbench.core.bundle import Condition
from workbench.core.errors import AskError
from workbench.core.patch import Patch
from workbench.core.tape import Step
from workbench.ops.low_rank import LowRank


def now(key: str = "unet:up_blocks.1.conv.weight", shape: tuple[int, ...] = (2, 64, 4), cond: object = None) -> Now:
    return Now(key, shape, "picture", cond, (8, 8))  # type: ignore[arg-type]


def cond(count: int, step: Step | None = None) -> Condition:
    prompts = ("a cat", "the red dog", "flat")[:count]
    found = condition(tiny_sd(), Ask(prompts=prompts), False, (2 * SIDE, 2 * SIDE))
    return Condition(found.text, found.seeds, found.roles, step)


def said(low: LowRank, gate: object, count: int, step: Step | None = None, **more: object) -> Tensor:
    """The network's word for `count` rows with an adapter behind a gate."""
    bundle = tiny_sd()
    x = torch.randn(3, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(1))[:count]
    with torch.no_grad(), Patch(bundle) as patch:
        if gate is not None:
            attach(patch, bundle, low, gate, **more)  # type: ignore[arg-type]
        return bundle.predict(x, torch.full((count,), 500), cond(count, step))


@pytest.fixture(scope="module")
def low() -> LowRank:
    return random_adapter(tiny_sd(), "random:1").low_rank


def test_a_row_gate_equals_separate_runs(low: LowRank) -> None:
    weights = torch.tensor([0.0, 0.6, -1.2])
    together = said(low, rows(lambda told: weights), 3)
    for index, weight in enumerate(weights.tolist()):
        assert_close(together[index], said(low, scalar(weight), 3)[index], rtol=1e-5, atol=2e-6)
    assert torch.equal(together[0], said(low, None, 3)[0])


def test_two_adapters_behind_row_gates_equal_separate_runs(low: LowRank) -> None:
    other = random_adapter(tiny_sd(), "random:2").low_rank
    bundle, x = tiny_sd(), torch.randn(2, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    with torch.no_grad(), Patch(bundle) as patch:
        attach(patch, bundle, low, rows(lambda told: torch.tensor([0.6, 0.6])))
        attach(patch, bundle, other, rows(lambda told: torch.tensor([0.0, 1.2])))
        together = bundle.predict(x, torch.full((2,), 500), cond(2))
    with torch.no_grad(), Patch(bundle) as patch:
        attach(patch, bundle, low.scaled(0.6))
        assert_close(together[0], bundle.predict(x, torch.full((2,), 500), cond(2))[0], rtol=1e-5, atol=2e-6)
        attach(patch, bundle, other.scaled(1.2))
        assert_close(together[1], bundle.predict(x, torch.full((2,), 500), cond(2))[1], rtol=1e-5, atol=2e-6)


def test_zero_leaves_the_answer_alone_bit_for_bit(low: LowRank) -> None:
    assert torch.equal(said(low, scalar(0.0), 2), said(low, None, 2))


def test_a_mask_of_ones_is_no_mask_and_of_zeros_no_adapter(low: LowRank) -> None:
    whole = said(low, scalar(1.0), 2)
    assert_close(said(low, region(torch.ones(SIDE, SIDE)), 2), whole, rtol=1e-5, atol=2e-6)
    nothing = region(torch.zeros(SIDE, SIDE), torch.zeros(77))
    assert torch.equal(said(low, nothing, 2), said(low, None, 2))


def test_a_mask_acts_within_itself_alone(low: LowRank) -> None:
    """At the module itself, nothing is added where the mask is 0, and where it is 1 all that an open gate adds."""
    half = torch.zeros(SIDE, SIDE)
    half[:, : SIDE // 2] = 1
    key = "unet:down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0.weight"
    one, answers = low.kept(frozenset([key])), list[Tensor]()
    for gate in (None, region(half), scalar(1.0)):
        with Patch(tiny_sd()) as patch:
            said_by(patch, key, one, gate, answers)
    base, masked, whole = (answer.reshape(2, SIDE, SIDE, -1) for answer in answers)
    assert torch.equal(masked[:, :, SIDE // 2 :], base[:, :, SIDE // 2 :])
    assert_close(masked[:, :, : SIDE // 2], whole[:, :, : SIDE // 2])
    assert not torch.allclose(whole, base, atol=1e-3)


def said_by(patch: Patch, key: str, low: LowRank, gate: object, answers: list[Tensor]) -> None:
    """Run the network once, and keep what one module says with an adapter behind a gate."""
    if gate is not None:
        attach(patch, tiny_sd(), low, gate)  # type: ignore[arg-type]
    patch.hook(patch.find(key)[0], lambda module, args, kwargs, output: answers.append(output.clone()))
    said(low, None, 2)


def test_a_rank_gate_takes_ranks_out(low: LowRank) -> None:
    first = LowRank({key: (up[:, :1], down[:1]) for key, (up, down) in low.factors.items()})
    gated = said(low, scalar(1.0), 2, ranks=lambda told: torch.tensor([1.0, 0.0, 0.0, 0.0]))
    assert_close(gated, said(first, scalar(1.0), 2), rtol=1e-5, atol=2e-6)


def test_steps_open_and_close(low: LowRank) -> None:
    gate = steps(lambda when: float(when < 0.5))
    early, late = (Step(index, 5, 500.0) for index in (0, 4))
    assert torch.equal(said(low, gate, 2, late), said(low, None, 2))
    assert torch.equal(said(low, gate, 2, early), said(low, scalar(1.0), 2))
    assert gate(now()) == 1.0  # outside a run


def test_a_schedule_is_a_line_through_its_points() -> None:
    line = points([0.0, 1.0, 0.0])
    assert [line(when) for when in (0.0, 0.25, 0.5, 1.0)] == [0.0, 0.5, 1.0, 0.0]
    assert points([0.3])(0.7) == 0.3
    with pytest.raises(AskError, match="without numbers"):
        points([])


def test_the_longest_name_of_a_place_counts() -> None:
    gate = places({"unet": 0.5, "unet:up_blocks.1": 0.0, "text": 2.0})
    assert gate(now("unet:up_blocks.1.conv.weight")) == 0.0
    assert gate(now("unet:up_blocks.10.conv.weight")) == 0.5
    assert gate(now("text:layers.0.q.weight")) == 2.0
    assert gate(now("text2:layers.0.q.weight")) == 1.0
    assert covers("unet:a", "unet:a")


def test_products_stop_at_a_plain_zero() -> None:
    def never(told: Now) -> float:
        raise AssertionError("asked behind a 0")

    assert both(scalar(0.0), never)(now()) == 0.0
    assert both(scalar(2.0), scalar(3.0))(now()) == 6.0


def test_the_grid_is_the_latent_halved_until_it_fits() -> None:
    assert side(Now("k", (1, 16, 5), "picture", None, (8, 8))) == (4, 4)
    assert side(Now("k", (1, 5, 6, 3), "picture", None, (8, 8))) == (6, 3)
    assert side(Now("k", (1, 12, 5), "picture", None, (12, 16))) == (3, 4)
    with pytest.raises(AskError, match="no halving"):
        side(Now("k", (1, 7, 5), "picture", None, (8, 8)))


def test_a_row_gate_needs_one_number_a_row() -> None:
    with pytest.raises(AskError, match="2 rows"):
        rows(lambda told: torch.ones(3))(now(cond=cond(2)))


def test_a_transformers_reading_of_its_captions_is_text_to_a_region() -> None:
    """A mask over places has nothing to say where a module answers on the words of the prompt."""
    bundle, seen = tiny_pixart(), dict[str, Ground]()
    linears = {key: m for key, m in bundle.parts["transformer"].named_modules() if isinstance(m, torch.nn.Linear)}
    low = LowRank({f"transformer:{name}.weight": (torch.ones(len(m.weight), 1), torch.zeros(1, m.weight.shape[1]))
                   for name, m in linears.items()})  # fmt: skip

    def gate(now: Now) -> Tensor | float:
        seen[now.key.removeprefix("transformer:").removesuffix(".weight")] = now.ground
        return region(torch.ones(SIDE, SIDE))(now)

    told = condition(bundle, Ask(prompts=["a cat"]), False, (2 * SIDE, 2 * SIDE))
    with torch.no_grad(), Patch(bundle) as patch:
        attach(patch, bundle, low, gate)
        bundle.predict(torch.zeros(1, 4, SIDE, SIDE), torch.tensor([500]), told)
    assert seen["caption_projection.linear_1"] == seen["caption_projection.linear_2"] == "text"
    assert seen["transformer_blocks.0.attn2.to_v"] == "text"
    assert seen["transformer_blocks.0.attn2.to_q"] == seen["transformer_blocks.0.ff.net.2"] == "picture"
    assert seen["proj_out"] == "picture"
    assert seen["adaln_single.linear"] == "none"


def test_text_and_time_are_outside_a_region() -> None:
    mask = region(torch.zeros(4, 4))
    assert mask(Now("k", (2, 77, 8), "text", None, (8, 8))) == 1.0
    assert mask(Now("k", (2, 8), "none", None, (8, 8))) == 1.0
