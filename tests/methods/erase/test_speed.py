"""SPEED against least squares in its null space and against the published expression; what it holds, it holds."""

import pytest
import torch
from torch.testing import assert_close

from tests.methods.erase.layouts import exact, layout
from tests.tiny import tiny_sd
from workbench.blocks.closed_form import erase_moments, kept_states, text_matrices, weight_of
from workbench.core.errors import AskError
from workbench.core.scene import using
from workbench.core.tape import ignore
from workbench.methods.erase.speed import Speed, _invariants

SETTINGS = {"concepts": ("cat", "red"), "anchor": "the", "preserve": ("dog",), "span": "last", "augment": False,
            "energy": 0.8, "ridge": 0.05}  # fmt: skip


def pieces(edit: Speed):
    """Sums, preserved states and invariants of a fit, in float64."""
    bundle = exact()
    erase = erase_moments(bundle, edit.concepts, edit.anchor, edit.span).scaled(1 / len(edit.concepts))
    return bundle, erase, kept_states(bundle, edit.preserve, edit.span), _invariants(bundle, edit.seed)


def filtered(W: torch.Tensor, erase, kept: torch.Tensor) -> torch.Tensor:
    """The preserved states that the plain edit would move more than the mean, one by one."""
    d = W.shape[1]
    plain = W @ (erase.a - erase.b) @ torch.linalg.inv(erase.b + erase.level * torch.eye(d, dtype=torch.float64))
    moved = [float((plain @ k).norm()) for k in kept]
    return torch.stack([k for k, size in zip(kept, moved, strict=True) if size >= sum(moved) / len(moved)])


def test_it_is_the_published_expression() -> None:
    """W (S_at - S_tt) P Q M with P from the null space and Q holding C, as the paper writes it, lambda = 0."""
    edit = Speed(**SETTINGS)
    bundle, erase, kept, C = pieces(edit)
    delta = edit.fit(bundle, ignore)
    for handle in text_matrices(bundle, "speed", "values")[:3]:
        W = weight_of(handle)
        chosen = filtered(W, erase, kept)
        values, vectors = torch.linalg.eigh(chosen.T @ chosen / len(chosen))
        held, count = 0.0, 0
        while held < edit.energy * float(values.sum()):  # strongest first, until they hold the energy
            count += 1
            held = float(values[-count:].sum())
        U = vectors[:, : len(values) - count]
        P, eye = U @ U.T, torch.eye(len(values), dtype=torch.float64)
        M = torch.linalg.inv(erase.b @ P + edit.ridge * erase.level / len(edit.concepts) * eye)
        Q = eye - M @ C @ torch.linalg.pinv(C.T @ P @ M @ C) @ C.T @ P
        slow = W @ (erase.a - erase.b) @ P @ Q @ M
        assert_close(delta.tensors[handle.key], slow, atol=1e-8, rtol=0)


def test_it_is_least_squares_within_the_basis() -> None:
    edit = Speed(**{**SETTINGS, "energy": 0.0})  # nothing preserved but the invariants: the basis is known on paper
    bundle, erase, _, C = pieces(edit)
    delta = edit.fit(bundle, ignore)
    handle = text_matrices(bundle, "speed", "values")[0]
    W, d = weight_of(handle), len(C)
    H = torch.linalg.svd(C)[0][:, C.shape[1] :]
    root = torch.linalg.cholesky(erase.b + 1e-13 * torch.eye(d, dtype=torch.float64)).T  # root^T root = S_tt
    stack = torch.cat(
        [root @ H, (edit.ridge * erase.level / len(edit.concepts)) ** 0.5 * torch.eye(H.shape[1], dtype=torch.float64)]
    )
    pull = torch.linalg.lstsq(root.T, (W @ (erase.a - erase.b)).T).solution  # the rows whose product with root it is
    wanted = torch.cat([pull, torch.zeros(H.shape[1], len(W), dtype=torch.float64)])
    slow = torch.linalg.lstsq(stack, wanted).solution.T @ H.T
    assert_close(delta.tensors[handle.key], slow, atol=1e-6, rtol=0)  # the root of a rank-deficient S_tt costs digits


def test_the_empty_prompts_start_and_centres_do_not_move() -> None:
    bundle = exact()
    delta = Speed(concepts=["cat"], preserve=["dog"]).fit(bundle, ignore)
    C = _invariants(bundle, 0)
    assert C.shape == (32, 4)
    assert_close(C[:, 0], bundle.read([""]).states[0, 0])
    for handle in text_matrices(bundle, "speed", "values"):
        change = delta.tensors[handle.key]
        assert (change @ C).abs().max() < 1e-9 * float(C.norm())
        assert change.abs().max() > 1e-4


def test_what_is_preserved_with_all_its_energy_does_not_move() -> None:
    bundle = exact()
    edit = Speed(**{**SETTINGS, "energy": 1.0})
    delta = edit.fit(bundle, ignore)
    _, erase, kept, _ = pieces(edit)
    handle = text_matrices(bundle, "speed", "values")[0]
    chosen = filtered(weight_of(handle), erase, kept)
    assert (delta.tensors[handle.key] @ chosen.T).norm() < 1e-6 * chosen.norm()


def test_only_values_are_edited_and_the_seed_moves_only_the_variations() -> None:
    bundle = tiny_sd()
    one = Speed(concepts=["cat"], preserve=["dog"])
    delta = one.fit(bundle, ignore)
    assert all(key.endswith("to_v.weight") for key in delta.tensors)
    other = one.but(seed=1).fit(bundle, ignore)
    key = next(iter(delta.tensors))
    assert not torch.equal(delta.tensors[key], other.tensors[key])


def test_no_room_left_is_said_and_not_passed_over() -> None:
    with pytest.raises(AskError, match=r"speed: energy is 1\.0, which leaves no direction free"):
        Speed(concepts=["cat"], preserve=["dog", "red"], energy=1.0, span="all").fit(tiny_sd(), ignore)


def test_a_hundred_concepts_at_once() -> None:
    concepts = [f"cat {a}{b}" for a in "abcdefghij" for b in "klmnopqrst"]
    delta = Speed(concepts=concepts, preserve=["dog"], span="last", manner="style").fit(tiny_sd(), ignore)
    assert float(delta.text["relative_change"]) > 0
    assert delta.text["singular"] == "no"


def test_strength_zero_changes_nothing_and_undo_is_exact() -> None:
    bundle, edit = tiny_sd(), Speed(concepts=["cat"], preserve=["dog"])
    handle = text_matrices(bundle, "speed", "values")[0]
    before, same = handle.weight.clone(), handle.weight
    with using(bundle, edit.but(strength=0.0)):
        assert torch.equal(handle.weight, before)
    with using(bundle, edit):
        assert not torch.equal(handle.weight, before)
    assert handle.weight is same
    assert torch.equal(handle.weight, before)


@pytest.mark.parametrize(("name", "count"), [("sd15", 16), ("sdxl", 70)])
def test_every_value_matrix_of_the_public_layouts_is_edited(name: str, count: int) -> None:
    assert len(Speed(concepts=["cat"], preserve=["dog"]).fit(layout(name), ignore).tensors) == count


def test_the_tiny_model_changes_by_this_much_with_seed_0() -> None:
    delta = Speed(concepts=["cat"], preserve=["dog"]).fit(tiny_sd(), ignore)
    assert float(delta.text["relative_change"]) == pytest.approx(0.0544765, rel=1e-2)
