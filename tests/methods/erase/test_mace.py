"""MACE's three stages: refinement and fusion against least squares, the LoRA's loss against loops, and at rest."""

import math

import pytest
import torch
from torch.testing import assert_close

from tests.methods.erase.layouts import exact, layout
from tests.tiny import tiny_sd
from workbench.blocks.closed_form import text_matrices, weight_of
from workbench.blocks.closeups import Closeups
from workbench.blocks.concepts import phrases
from workbench.blocks.denoise import condition
from workbench.core.ask import Ask
from workbench.core.attend import Attention
from workbench.core.delta import Delta
from workbench.core.errors import Stopped
from workbench.core.patch import Patch
from workbench.core.scene import using
from workbench.core.tape import Step, ignore
from workbench.methods.erase import mace
from workbench.methods.erase.mace import Mace, fusion, likely

PLAIN = {"concepts": ("cat", "red"), "preserve": ("dog",), "anchor": "the", "pictures": 1}


def states(word: str, other: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Token states of a word's prompts and of another's, [prompts, 77, 32], in float64."""
    mine, theirs = phrases(exact(), word, other)
    return tuple(exact().read([p.text for p in row]).states for row in (mine, theirs))  # type: ignore[return-value]


def around(word: str, other: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The states of the words around two subjects of one token each, weighed by their prompt's share."""
    K, V = states(word, other)
    heads = [_count(phrase.before) for phrase in phrases(exact(), word, "")[0]]
    rows = [
        (torch.cat([k[: 1 + n], k[2 + n :]]), torch.cat([v[: 1 + n], v[2 + n :]]))
        for k, v, n in zip(K, V, heads, strict=True)
    ]
    share = len(rows) ** 0.5
    return torch.cat([k for k, _ in rows]) / share, torch.cat([v for _, v in rows]) / share


def _count(text: str) -> int:
    ids = exact().read([text, ""]).ids
    assert ids is not None
    return ids[0, 1:].tolist().index(int(ids[1, 1]))


def least(K: torch.Tensor, wanted: torch.Tensor, ridge: float) -> torch.Tensor:
    """The change nearest to 0 with K -> wanted by least squares; the ridge in units of the mean diagonal."""
    d = K.shape[1]
    root = (ridge * float(K.square().sum()) / d) ** 0.5
    rows = torch.cat([K, root * torch.eye(d, dtype=torch.float64)])
    return torch.linalg.lstsq(rows, torch.cat([wanted, wanted.new_zeros(d, wanted.shape[1])])).solution.T


def test_refinement_is_least_squares_on_the_words_around() -> None:
    edit = Mace(**PLAIN, iterations=0)
    delta = edit.fit(exact(), ignore)
    pairs = [around(word, "the") for word in edit.concepts]
    K, V = (torch.cat(rows) for rows in zip(*pairs, strict=True))
    kept = states("dog", "dog")[0]
    S = kept.flatten(0, 1) / len(kept) ** 0.5
    for handle in text_matrices(exact(), "mace")[:3]:
        W = weight_of(handle)
        slow = least(torch.cat([K, S]), torch.cat([(V - K) @ W.T, S.new_zeros(len(S), len(W))]), edit.ridge)
        assert_close(delta.tensors[handle.key], slow, atol=1e-8, rtol=0)


def test_fusion_is_least_squares_on_every_concepts_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    edit, bundle = Mace(**PLAIN), exact()
    handles = text_matrices(bundle, "mace")
    generator = torch.Generator().manual_seed(3)
    loras = {
        word: Delta("weights", {h.key: torch.randn(h.weight.shape, generator=generator, dtype=torch.float64)
                                for h in handles}) for word in edit.concepts}  # fmt: skip
    monkeypatch.setattr(Mace, "_lora", lambda self, b, h, refined, concept, tap: loras[concept])
    delta = edit.fit(bundle, ignore)
    refined = edit.but(iterations=0).fit(bundle, ignore)
    said = {word: states(word, word)[0].flatten(0, 1) / 6**0.5 for word in (*edit.concepts, "dog")}
    for handle in handles[:3]:
        W = weight_of(handle)
        R = refined.tensors[handle.key]
        K = torch.cat([said["cat"], said["red"], said["dog"]])
        wanted = torch.cat([*(said[word] @ loras[word].tensors[handle.key].T for word in edit.concepts),
                            -said["dog"] @ R.T])  # what stays should be as in the model before refinement  # fmt: skip
        assert_close(delta.tensors[handle.key], R + least(K, wanted, edit.ridge), atol=1e-7, rtol=0)
        assert W.shape == R.shape


def test_one_lora_fused_alone_is_itself() -> None:
    """Without a ridge and with prompts that span the space, W* e = (W' + D) e for all e means W* = W' + D."""
    generator = torch.Generator().manual_seed(0)
    D, E = (torch.randn(n, 5, generator=generator, dtype=torch.float64) for n in (4, 20))
    sums = E.T @ E
    assert_close(fusion([D], [sums]) @ torch.linalg.inv(sums), D, atol=1e-10, rtol=0)


def test_timesteps_lie_mostly_between_200_and_400() -> None:
    weights = likely(1000)
    by_hand = [1 / (1 + math.exp(-0.05 * (t - 200))) - 1 / (1 + math.exp(-0.05 * (t - 400))) for t in range(1000)]
    assert_close(weights, torch.tensor(by_hand), atol=1e-6, rtol=0)
    assert float(weights[200:400].sum() / weights.sum()) > 0.85


def test_the_loss_is_the_sum_of_norms_over_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against softmax weights seen on the way, place by place and token by token."""
    bundle = tiny_sd()
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4, :4] = 1.0
    seen: list[torch.Tensor] = []
    run = Attention.run
    monkeypatch.setattr(Attention, "run", lambda call: (seen.append(call.weights()), run(call))[1])
    cond = condition(bundle, Ask(prompts=["a cat"]), False, (16, 16))
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), Patch(bundle) as patch:
        gaze = mace._Gaze(bundle, patch, Closeups(x, mask), "mace")
        loss = gaze.at(x, torch.tensor([300]), cond, 0, [2])
    slow = 0.0
    for weights in seen:
        side = int(weights.shape[2] ** 0.5)
        inside = [r * side + c for r in range(side // 2) for c in range(side // 2)]
        slow += sum(float(weights[0, a, n, 2]) ** 2 for a in range(weights.shape[1]) for n in inside) ** 0.5
    assert len(seen) == len(bundle.sites("cross-attention"))
    assert float(loss) == pytest.approx(slow, rel=1e-5)


def test_training_looks_away_from_the_concept(monkeypatch: pytest.MonkeyPatch) -> None:
    losses: list[float] = []
    at = mace._Gaze.at

    def noted(self, *args) -> torch.Tensor:
        found = at(self, *args)
        losses.append(float(found.detach()))
        return found

    monkeypatch.setattr(mace._Gaze, "at", noted)
    Mace(concepts=["cat"], preserve=["dog"], pictures=2, iterations=30).fit(tiny_sd(), ignore)
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_progress_counts_all_concepts_and_a_stop_leaves_the_model_whole() -> None:
    bundle, seen = tiny_sd(), list[Step]()
    edit = Mace(**{**PLAIN, "iterations": 2})
    before = text_matrices(bundle, "mace")[0].weight.clone()
    edit.fit(bundle, seen.append)
    assert {step.total for step in seen} == {4}
    assert sorted({step.index for step in seen}) == [0, 1, 2, 3]

    def stop(step: Step) -> None:
        if step.index == 1:
            raise Stopped

    with pytest.raises(Stopped):
        edit.fit(bundle, stop)
    assert torch.equal(text_matrices(bundle, "mace")[0].weight, before)


def test_strength_zero_changes_nothing_and_undo_is_exact() -> None:
    bundle, edit = tiny_sd(), Mace(**Mace.quick)
    handle = text_matrices(bundle, "mace")[0]
    before, same = handle.weight.clone(), handle.weight
    with using(bundle, edit.but(strength=0.0)):
        assert torch.equal(handle.weight, before)
    with using(bundle, edit):
        assert not torch.equal(handle.weight, before)
    assert handle.weight is same
    assert torch.equal(handle.weight, before)


@pytest.mark.parametrize(("name", "count"), [("sd15", 32), ("sdxl", 140)])
def test_every_matrix_of_the_public_layouts_is_refined(name: str, count: int) -> None:
    assert len(Mace(concepts=["cat"], preserve=["dog"], iterations=0).fit(layout(name), ignore).tensors) == count


def test_a_hundred_concepts_are_refined_at_once() -> None:
    concepts = [f"cat {a}{b}" for a in "abcdefghij" for b in "klmnopqrst"]
    delta = Mace(concepts=concepts, preserve=["dog"], iterations=0).fit(tiny_sd(), ignore)
    assert float(delta.text["relative_change"]) > 0


def test_the_tiny_model_changes_by_this_much_with_seed_0() -> None:
    delta = Mace(concepts=["cat"], preserve=["dog"], iterations=20, pictures=2).fit(tiny_sd(), ignore)
    assert float(delta.text["relative_change"]) == pytest.approx(0.437557, rel=1e-2)
