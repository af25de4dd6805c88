"""Boxes, masks, losses on attention against loops, and words among tokens."""

import math

import pytest
import torch
from torch.testing import assert_close

from tests.tiny import tiny_sd
from workbench.blocks.regions import (
    Reworded,
    Watch,
    Words,
    above,
    box_masks,
    checked,
    contrast,
    outside,
    parted,
    refuse_unnamed,
    reworded,
    spread,
)
from workbench.core.bundle import Condition
from workbench.core.errors import AskError, MissingPart, PatchError
from workbench.core.patch import Patch

SAID = "a cat on the red dog"


def maps(count: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_box_covers_cells_by_their_share() -> None:
    mask = box_masks([(0.25, 0.5, 1.0, 1.0)], (4, 2))[0]
    assert mask.tolist() == [[0.0, 0.0], [0.0, 0.0], [0.5, 1.0], [0.5, 1.0]]
    one, two = box_masks([(0.1, 0.2, 0.7, 0.9), (0.7, 0.2, 1.0, 0.9)], (5, 7))
    assert float(one.sum()) == pytest.approx(0.6 * 0.7 * 35, rel=1e-5)
    assert float((one + two).max()) <= 1 + 1e-6


def test_boxes_outside_or_empty_are_refused() -> None:
    assert checked([(0.0, 0.0, 1.0, 1.0)]) == ((0.0, 0.0, 1.0, 1.0),)
    for box in ((-0.1, 0.0, 1.0, 1.0), (0.0, 0.0, 1.0, 1.01)):
        with pytest.raises(ValueError, match="outside of the picture"):
            checked([box])
    for box in ((0.5, 0.0, 0.5, 1.0), (0.0, 0.9, 1.0, 0.1)):
        with pytest.raises(ValueError, match="which is empty"):
            checked([box])


def test_parted_masks_do_not_overlap_and_follow_the_greatest() -> None:
    masks = parted(maps(3), 0.0)
    assert float(masks.sum(0).max()) == 1.0
    even = spread(maps(3))
    assert torch.equal(masks.argmax(0)[masks.sum(0) > 0], even.argmax(0)[masks.sum(0) > 0])
    same = torch.stack([maps(1)[0]] * 2)
    assert parted(same, 0.5)[1].sum() == 0  # of equal ones the first
    assert parted(torch.zeros(2, 3, 3), 0.0).sum() == 0  # a word that is not said has no place


def test_above_is_a_share_of_each_maps_own_peak() -> None:
    masks = above(torch.tensor([[[1.0, 4.0]], [[0.1, 0.05]]]), 0.3)
    assert masks.tolist() == [[[0.0, 1.0]], [[1.0, 1.0]]]


def test_the_contrastive_loss_equals_loops_in_float64() -> None:
    values, concepts, heat = maps(), [0, 1, 0, 1, 1, 2], 0.5
    flat = []
    for one in values.tolist():
        row = [v for line in one for v in line]
        row = [(v - min(row)) / (max(row) - min(row)) for v in row]
        size = math.sqrt(sum(v * v for v in row))
        flat.append([v / size for v in row])
    cosine = [[sum(a * b for a, b in zip(x, y, strict=True)) for y in flat] for x in flat]
    losses = []
    for a in range(6):
        for p in range(6):
            if a != p and concepts[a] == concepts[p]:
                top = math.exp(cosine[a][p] / heat)
                rest = sum(math.exp(cosine[a][n] / heat) for n in range(6) if concepts[n] != concepts[a])
                losses.append(-math.log(top / (top + rest)))
    made = contrast(values, torch.tensor(concepts), heat)
    assert float(made) == pytest.approx(sum(losses) / len(losses), abs=1e-12)


def test_the_contrastive_loss_is_least_where_concepts_are_apart() -> None:
    apart = torch.zeros(4, 1, 4)
    apart[:2, 0, :2], apart[2:, 0, 2:] = 1.0, 1.0
    concepts = torch.tensor([0, 0, 1, 1])
    mixed = torch.ones(4, 1, 4) * torch.tensor([1.0, 0.5, 0.2, 0.0])
    assert contrast(apart, concepts) < contrast(mixed, concepts)
    assert float(contrast(apart[:1], torch.tensor([0]))) == 0.0  # nothing to compare


def test_attention_outside_of_its_box_is_what_is_lost() -> None:
    heat, masks = torch.zeros(2, 2, 2), torch.zeros(2, 2, 2)
    heat[0, 0], heat[1, :, 1] = 1.0, 1.0
    masks[0, 0], masks[1, 0] = 1.0, 1.0
    assert float(outside(heat, masks)) == pytest.approx((0 + 0.25) / 2)


def test_words_are_found_by_their_tokens() -> None:
    words = Words(tiny_sd(), ("cat", "red dog", "fox", ""))
    columns = words.columns(tiny_sd().read([SAID, "cat cat"]).ids)
    assert columns.sum(1).tolist() == [[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]
    assert columns[0, :, 0].nonzero().flatten().tolist() == [2]  # start, a, cat
    assert columns[1, 1, 0] == 0.5
    with pytest.raises(MissingPart, match="does not say which tokens"):
        words.columns(None)
    with pytest.raises(AskError, match="b names no trigger word"):
        refuse_unnamed("clora", ("cat", ""), ("a", "b"))


def test_a_watch_sees_attention_and_changes_nothing() -> None:
    bundle = tiny_sd()
    x, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.full((2,), 500)
    cond = Condition(bundle.read(["", SAID]), (0, 0), ("uncond", "cond"))
    plain = bundle.predict(x, t, cond)
    watch = Watch(bundle.sites("cross-attention", 0), Words(bundle, ("cat", "dog")))
    with Patch(bundle) as patch:
        watch.attach(patch)
        with watch.seeing() as seen:
            assert torch.equal(bundle.predict(x, t, cond), plain)
        found = seen.maps(lambda told: told.where("cond"))
        assert found.shape == (1, 2, 8, 8)
        assert float(found.min()) >= 0
        assert not torch.equal(found[0, 0], found[0, 1])
        with torch.enable_grad(), watch.seeing() as traced:
            moving = x.clone().requires_grad_(True)
            bundle.predict(moving, t, cond)
            (slope,) = torch.autograd.grad(traced.maps(lambda told: told.where("cond")).sum(), moving)
        assert float(slope[1].abs().max()) > 0
        assert float(slope[0].abs().max()) == 0  # the other row's attention is its own
        with watch.seeing() as unseen, pytest.raises(PatchError, match="No call of cross-attention was seen"):
            unseen.maps(lambda told: [0])


def test_whole_words_are_replaced_in_any_case() -> None:
    assert reworded("a Cat, a cats' cat", {"cat": "dog"}) == "a dog, a cats' dog"
    known = Reworded([{}, {"cat": "dog"}])
    bundle = tiny_sd()
    with Patch(bundle) as patch:
        patch.wrap("read", known.wrap)
        cond = Condition(bundle.read(["a cat", "red"]), (0, 1), ("cond", "cond"))
    assert known.told(0, cond) is cond
    told = known.told(1, cond)
    assert torch.equal(told.text.states[0], bundle.read(["a dog"]).states[0])
    assert_close(told.text.states[1], cond.text.states[1])
    strange = Condition(bundle.read(["the dog"]), (0,), ("cond",))
    assert torch.equal(known.told(1, strange).text.states, strange.text.states)
