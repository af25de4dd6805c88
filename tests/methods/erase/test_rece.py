"""RECE against its equations matrix by matrix, against UCE where it is that, and at rest."""

import pytest
import torch
from torch.testing import assert_close

from tests.methods.erase.layouts import exact, layout
from tests.tiny import tiny_sd
from workbench.blocks.closed_form import text_matrices, weight_of
from workbench.blocks.concepts import phrases
from workbench.core.bundle import Bundle
from workbench.core.scene import using
from workbench.core.tape import ignore
from workbench.methods.erase.rece import Rece
from workbench.methods.erase.uce import Uce
from workbench.ops.linear_edit import recovery

PLAIN = {"concepts": ("cat",), "anchor": "red", "preserve": ("dog",), "span": "all"}


def rows(bundle: Bundle, word: str, other: str) -> tuple[torch.Tensor, torch.Tensor]:
    """All token states of a word's prompts and of another's in the same prompts, each weighed by its prompt's share."""
    mine, theirs = phrases(bundle, word, other)
    K, V = (torch.cat([*bundle.read([p.text for p in row]).states.double()]) for row in (mine, theirs))
    return K / len(mine) ** 0.5, V / len(mine) ** 0.5


def fitted(W: torch.Tensor, K: torch.Tensor, V: torch.Tensor, S: torch.Tensor, ridge: float) -> torch.Tensor:
    """The new matrix by least squares: K -> W V, S -> W S, near W."""
    eye = torch.eye(K.shape[1], dtype=torch.float64)
    level = float((K.square().sum() + S.square().sum()) / K.shape[1])
    stack = torch.cat([K, S, (ridge * level) ** 0.5 * eye])
    zeros = torch.zeros(len(S) + len(eye), len(W), dtype=torch.float64)
    return W + torch.linalg.lstsq(stack, torch.cat([(V - K) @ W.T, zeros])).solution.T


def test_two_rounds_are_the_equations_matrix_by_matrix() -> None:
    bundle, edit = exact(), Rece(**PLAIN, rounds=2, ridge=0.02, attack_ridge=0.05)
    handles = text_matrices(bundle, "rece")
    (K, V), (S, _) = rows(bundle, "cat", "red"), rows(bundle, "dog", "dog")
    old = [weight_of(handle) for handle in handles]
    new = [fitted(W, K, V, S, edit.ridge) for W in old]
    for _ in range(2):
        stack = torch.cat(new)
        level = float(stack.square().sum() / stack.shape[1])
        eye = torch.eye(stack.shape[1], dtype=torch.float64)
        attack = torch.cat([stack, (edit.attack_ridge * level) ** 0.5 * eye])
        wanted = torch.cat([torch.cat(old) @ K.T, torch.zeros(len(eye), len(K), dtype=torch.float64)])
        found = torch.linalg.lstsq(attack, wanted).solution.T  # every c' for itself
        new = [fitted(W, found, V, S, edit.ridge) for W in new]
    delta = edit.fit(bundle, ignore)
    for handle, W, W_new in zip(handles, old, new, strict=True):
        assert_close(delta.tensors[handle.key], W_new - W, atol=1e-8, rtol=0)


def test_no_round_is_uce() -> None:
    bundle = tiny_sd()
    one, other = Rece(**PLAIN, rounds=0).fit(bundle, ignore), Uce(**PLAIN).fit(bundle, ignore)
    for key, value in other.tensors.items():
        assert_close(one.tensors[key], value, atol=1e-6, rtol=0)


def test_a_round_leaves_less_to_recover() -> None:
    """The attack on the edited model comes less close to the old answers after a round."""
    bundle = exact()
    handles = text_matrices(bundle, "rece")
    K, _ = rows(bundle, "cat", "red")
    old = [weight_of(handle) for handle in handles]

    def missed(rounds: int) -> float:
        delta = Rece(**PLAIN, rounds=rounds).fit(bundle, ignore)
        new = [W + delta.tensors[handle.key] for handle, W in zip(handles, old, strict=True)]
        ridge = 0.01 * float(sum(W.square().sum() for W in new)) / K.shape[1]
        found = K @ recovery(new, old, ridge).T
        gaps = [(found @ N.T - K @ W.T).square().sum() for N, W in zip(new, old, strict=True)]
        return float(sum(gaps))

    assert missed(3) > 1.2 * missed(0)


def test_strength_zero_changes_nothing_and_undo_is_exact() -> None:
    bundle, edit = tiny_sd(), Rece(concepts=["cat"], preserve=["dog"])
    handle = text_matrices(bundle, "rece")[0]
    before, same = handle.weight.clone(), handle.weight
    with using(bundle, edit.but(strength=0.0)):
        assert torch.equal(handle.weight, before)
    with using(bundle, edit):
        assert not torch.equal(handle.weight, before)
    assert handle.weight is same
    assert torch.equal(handle.weight, before)


@pytest.mark.parametrize(("name", "count"), [("sd15", 32), ("sdxl", 140)])
def test_every_matrix_of_the_public_layouts_is_edited(name: str, count: int) -> None:
    assert len(Rece(concepts=["cat"], preserve=["dog"]).fit(layout(name), ignore).tensors) == count


def test_the_tiny_model_changes_by_this_much_with_seed_0() -> None:
    delta = Rece(concepts=["cat"], preserve=["dog"]).fit(tiny_sd(), ignore)
    assert float(delta.text["relative_change"]) == pytest.approx(0.492942, rel=1e-3)
