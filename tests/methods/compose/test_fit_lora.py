"""Fitting an adapter: its loss in float64, what changes, the same file twice, and that it learns."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.methods.erase.twins import Network, first, square
from tests.tiny import tiny_sd
from workbench.blocks.adapter_files import write
from workbench.blocks.adapters import read_adapter
from workbench.blocks.distill import Batch, answer
from workbench.blocks.groups import Trainee, select
from workbench.blocks.pools import Room
from workbench.core.errors import AskError, Stopped
from workbench.core.patch import Patch
from workbench.core.scene import using
from workbench.core.tape import Step, ignore
from workbench.methods.compose.fit_lora import FitLora
from workbench.ops.low_rank import LowRank
from workbench.runs.store import FolderStore

QUICK = FitLora(**FitLora.quick)


def test_the_loss_equals_the_equations_in_float64() -> None:
    edit = QUICK.but(noun="dog", contrast=0.7, batch=5, rank=2, group="xattn")
    recipe = edit.recipe(tiny_sd())
    states, losses, values = first(recipe, nudge=0.2)
    old, new, slow = Network(), Network(values), [0.0, 0.0]
    for row in range(5):
        lesson = recipe.lessons[int(states.lesson[row])]
        truth = states.truth[row].double().numpy()  # type: ignore[index]
        slow[0] += square(new.says(states, row, lesson["caption"]), truth) / 5
        bare = lesson["bare"]
        slow[1] += 0.7 * square(new.says(states, row, bare), old.says(states, row, bare)) / 5
    assert losses == pytest.approx(slow, rel=1e-3)


def test_attention_alone_changes_as_factors_of_the_asked_rank() -> None:
    delta = QUICK.but(rank=3).fit(tiny_sd(), ignore)
    low = LowRank.from_delta(delta)
    assert set(low) == {handle.key for handle in select(tiny_sd(), "attention")}
    assert {low.rank(key) for key in low} == {3}
    assert delta.text["trigger"] == "sks"


def test_strength_zero_draws_the_same_bits() -> None:
    from tests.contract.stage import ASK
    from workbench.methods.generate.diffuse import Diffuse

    sampler = Diffuse(steps=2)
    plain = sampler.sample(tiny_sd(), ASK, ignore)
    with using(tiny_sd(), QUICK.but(strength=0.0)) as bundle:
        assert torch.equal(sampler.sample(bundle, ASK, ignore), plain)


def test_what_was_fitted_is_a_file_for_the_lora_edit(tmp_path: Path) -> None:
    low = LowRank.from_delta(QUICK.fit(tiny_sd(), ignore))
    write(low, tmp_path / "fox", training={"trigger": "sks"})
    back = read_adapter(tiny_sd(), tmp_path / "fox")
    assert back.trigger == "sks"
    assert all(torch.equal(back.low_rank.dense(key), low.dense(key)) for key in low)


def misfit(bundle: object, edit: FitLora) -> float:
    """The mean squared error on the pictures at fixed noise."""
    recipe = edit.recipe(tiny_sd())
    with Patch(tiny_sd()) as patch:
        room = Room(tiny_sd(), recipe.lessons, Trainee(patch, []))
        stock = recipe.source.fill(room, 0)
        states = stock.draw(room, recipe.times, 16, torch.Generator().manual_seed(5))
        batch = Batch(room, states)
        with torch.no_grad():
            answer(batch, recipe.terms[:1])
            return float(recipe.terms[0](batch))


def test_it_learns_the_pictures() -> None:
    edit = QUICK.but(iterations=60, batch=8, rate=5e-3, group="noxattn", rank=4)
    before = misfit(tiny_sd(), edit)
    with using(tiny_sd(), edit):
        after = misfit(tiny_sd(), edit)
    assert after < 0.9 * before


def test_a_stopped_fit_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    import dataclasses

    bundle = dataclasses.replace(tiny_sd(), store=FolderStore(tmp_path))
    edit = QUICK.but(iterations=6)
    whole = edit.fit(tiny_sd(), ignore)

    def stop(step: Step) -> None:
        if step.index == 3:
            raise Stopped

    with pytest.raises(Stopped):
        edit.fit(bundle, stop)
    rest: list[Step] = []
    again = edit.fit(bundle, rest.append)
    assert len(rest) < 6
    assert all(torch.equal(again.tensors[key], value) for key, value in whole.tensors.items())


@pytest.mark.parametrize("term", ["prior", "contrast", "meaning", "regions"])
def test_every_term_takes_part(term: str) -> None:
    plain = QUICK.but(noun="dog").fit(tiny_sd(), ignore)
    with_it = QUICK.but(noun="dog", **{term: 5.0}).fit(tiny_sd(), ignore)
    assert any(not torch.equal(plain.tensors[key], value) for key, value in with_it.tensors.items())


def test_terms_about_the_noun_need_one() -> None:
    with pytest.raises(AskError, match="none is said"):
        QUICK.but(prior=1.0).fit(tiny_sd(), ignore)


def test_a_changed_picture_is_another_fit(tmp_path: Path) -> None:
    file = tmp_path / "one.png"
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(file)
    edit = QUICK.but(pictures=[str(file)])
    key = edit.fit_key
    assert edit.but(strength=0.5).fit_key == key
    (tmp_path / "one.txt").write_text("a {}")
    told = edit.fit_key
    Image.fromarray(np.ones((16, 16, 3), np.uint8)).save(file)
    seen = edit.fit_key
    Image.fromarray(np.ones((16, 16), np.uint8)).save(tmp_path / "one-mask.png")
    assert len({key, told, seen, edit.fit_key}) == 4
    folder = QUICK.but(pictures=[str(tmp_path)])
    key = folder.fit_key
    (tmp_path / "notes.bin").write_bytes(b"not learned from")
    assert folder.fit_key == key
    assert QUICK.fit_key != QUICK.but(rank=3).fit_key


def test_no_pictures_are_refused() -> None:
    with pytest.raises(AskError, match="at least 1"):
        FitLora(pictures=[])
