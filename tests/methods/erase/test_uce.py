"""UCE against least squares on its stacked problem, where it is exact, at rest, and on the layouts of SD 1.5 and XL."""

import pytest
import torch
from torch.testing import assert_close

from tests.methods.erase.layouts import exact, layout
from tests.tiny import tiny_sd
from workbench.blocks.closed_form import text_matrices
from workbench.blocks.concepts import phrases
from workbench.blocks.spans import Phrase
from workbench.core.bundle import Bundle, Handle
from workbench.core.errors import AskError
from workbench.core.scene import using
from workbench.core.tape import ignore
from workbench.methods.erase.uce import Uce

SETTINGS = {"concepts": ("cat", "red"), "anchor": "the", "preserve": ("dog",), "ridge": 0.05, "keep": 0.7}


def stacked(bundle: Bundle, handle: Handle, edit: Uce) -> torch.Tensor:
    """W' - W by least squares on one row a token: the objective as it is written, in float64."""
    keys, values, weights = [], [], []
    for words, other, weight in ((edit.concepts, edit.anchor, 1.0), (edit.preserve, None, edit.keep)):
        for word in words:
            mine, theirs = phrases(bundle, word, word if other is None else other)
            texts = bundle.read([p.text for p in (*mine, *theirs)]).states.double()
            for i in range(len(mine)):
                k, v = texts[i], texts[len(mine) + i]
                start, stop = (_last(bundle, p) for p in (mine[i], theirs[i]))
                reach = len(k) - max(start, stop)
                keys.append(k[start : start + reach])
                values.append(v[stop : stop + reach])
                weights.append(torch.full((reach,), weight / len(mine), dtype=torch.float64))
    K, V, w = torch.cat(keys), torch.cat(values), torch.cat(weights)
    W = handle.weight.double()
    ridge = edit.ridge * float((w[:, None] * K.square()).sum()) / K.shape[1]
    eye, nothing = torch.eye(K.shape[1], dtype=torch.float64), torch.zeros(K.shape[1], len(W), dtype=torch.float64)
    rows = torch.cat([w.sqrt()[:, None] * K, ridge**0.5 * eye])
    wanted = torch.cat([w.sqrt()[:, None] * (V - K) @ W.T, nothing])
    return torch.linalg.lstsq(rows, wanted).solution.T


def _last(bundle: Bundle, phrase: Phrase) -> int:
    """The subject's last token: as many as the prompt has up to there, read alone."""
    ids = bundle.read([f"{phrase.before}{phrase.subject}", ""]).ids
    assert ids is not None
    return ids[0, 1:].tolist().index(int(ids[1, 1]))


def test_it_is_least_squares_on_the_stacked_problem() -> None:
    bundle, edit = exact(), Uce(**SETTINGS)
    delta = edit.fit(bundle, ignore)
    for handle in text_matrices(bundle, "uce")[:4]:
        slow = stacked(bundle, handle, edit)
        assert_close(delta.tensors[handle.key], slow, atol=1e-8, rtol=0)


def test_without_a_ridge_to_speak_of_the_target_becomes_the_anchor_and_the_preserved_stays() -> None:
    """Three states in a space of 32: the closed form can satisfy them all."""
    bundle = tiny_sd()
    delta = Uce(concepts=["cat"], anchor="red", preserve=["dog"], span="last", ridge=1e-9).fit(bundle, ignore)
    handle = text_matrices(bundle, "uce")[0]
    W, new = handle.weight.double(), handle.weight.double() + delta.tensors[handle.key].double()
    cat, red, dog = bundle.read(["cat", "red", "dog"]).states[:, 1].double()
    assert_close(new @ cat, W @ red, atol=1e-3, rtol=0)
    assert_close(new @ dog, W @ dog, atol=1e-3, rtol=0)
    assert (W @ cat - W @ red).abs().max() > 0.1


def test_strength_zero_changes_nothing_and_undo_is_exact() -> None:
    bundle, edit = tiny_sd(), Uce(concepts=["cat"], preserve=["dog"])
    handle = text_matrices(bundle, "uce")[0]
    before, same = handle.weight.clone(), handle.weight
    with using(bundle, edit):
        assert not torch.equal(handle.weight, before)
    assert handle.weight is same
    assert torch.equal(handle.weight, before)
    with using(bundle, edit.but(strength=0.0)):
        assert torch.equal(handle.weight, before)


def test_half_the_strength_is_half_the_change() -> None:
    bundle, edit = tiny_sd(), Uce(concepts=["cat"], preserve=["dog"])
    delta = edit.fit(bundle, ignore)
    handle = text_matrices(bundle, "uce")[1]
    assert delta.text["matrices"] == "14"
    half = delta.changed(handle.key, handle.weight, 0.5)
    assert_close(half, handle.weight + 0.5 * delta.tensors[handle.key])


def test_settings_that_cannot_be_erased_are_refused_by_name() -> None:
    with pytest.raises(AskError, match="uce needs concepts"):
        Uce()
    with pytest.raises(AskError, match="uce: concepts is empty"):
        Uce(concepts=[]).fit(tiny_sd(), ignore)
    with pytest.raises(AskError, match="uce: 'cat' is to be erased and its own anchor"):
        Uce(concepts="cat", anchor="cat").fit(tiny_sd(), ignore)


@pytest.mark.parametrize(("name", "sites", "width"), [("sd15", 16, 24), ("sdxl", 70, 40)])
def test_every_matrix_of_the_public_layouts_is_edited(name: str, sites: int, width: int) -> None:
    """The block layout of SD 1.5 (16 cross-attentions) and SDXL (70), at small widths: keys and values each."""
    bundle = layout(name)
    delta = Uce(concepts=["cat"], preserve=["dog"]).fit(bundle, ignore)
    assert len(list(delta.keys())) == 2 * sites
    assert {delta.tensors[key].shape[1] for key in delta.keys()} == {width}  # noqa: SIM118
    assert all(".attn2.to_" in key for key in delta.keys())  # noqa: SIM118
    assert bundle.shapes.text[1] == width


def test_the_tiny_model_changes_by_this_much_with_seed_0() -> None:
    delta = Uce(concepts=["cat"], preserve=["dog"]).fit(tiny_sd(), ignore)
    assert float(delta.text["relative_change"]) == pytest.approx(0.243865, rel=1e-3)
