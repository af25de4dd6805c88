"""Learned tokens are said by their trigger, and a forgotten trigger is pointed out."""

import warnings
from pathlib import Path

import pytest
import torch

from tests.loras import saved
from tests.tiny import SIDE, tiny_sd, tiny_sdxl
from workbench.blocks.adapter_words import remind, wear_rows
from workbench.blocks.adapters import Adapter, read_adapter
from workbench.blocks.attack import tables
from workbench.blocks.spans import tokens
from workbench.core.bundle import Bundle
from workbench.core.errors import CheckpointMismatch
from workbench.core.patch import Patch, differences, fingerprint
from workbench.core.tape import Started
from workbench.ops.low_rank import LowRank


def states(bundle: Bundle, prompt: str) -> torch.Tensor:
    with torch.no_grad():
        return bundle.read([prompt]).states


def words(bundle: Bundle, *texts: str) -> dict[str, torch.Tensor]:
    """The rows of tokens that the model has, as if they had been learned."""
    parts = [name for name in bundle.parts if name.startswith("text")]
    ids = [token for text in texts for token in tokens(bundle, text)]
    return {part: table.weight.detach()[ids].clone() for part, table in zip(parts, tables(bundle), strict=True)}


@pytest.mark.parametrize("make", [tiny_sd, tiny_sdxl], ids=["sd", "sdxl"])
@pytest.mark.parametrize("count", [1, 3])
def test_rows_of_known_words_read_as_those_words(make: object, count: int) -> None:
    bundle = make()  # type: ignore[operator]
    said = ["cat", "dog", "red"][:count]
    adapter = Adapter("toy", LowRank(), {}, words(bundle, *said), "<toy>")
    before = fingerprint(bundle)
    with Patch(bundle) as patch:
        wear_rows(patch, bundle, adapter)
        found = states(bundle, "the <Toy> on the <toy>")
        plain = states(bundle, "the flat cat")
    wanted = " ".join(said)
    assert torch.allclose(found, states(bundle, f"the {wanted} on the {wanted}"), atol=1e-6)
    assert torch.equal(plain, states(bundle, "the flat cat"))
    assert differences(before, fingerprint(bundle)) == []


def test_two_learned_words_stand_side_by_side() -> None:
    bundle = tiny_sd()
    with Patch(bundle) as patch:
        wear_rows(patch, bundle, Adapter("one", LowRank(), {}, words(bundle, "cat"), "<one>"))
        wear_rows(patch, bundle, Adapter("two", LowRank(), {}, words(bundle, "red", "dog"), "<two>"))
        found = states(bundle, "the <one> on <two>")
    assert torch.allclose(found, states(bundle, "the cat on red dog"), atol=1e-6)


def test_a_file_of_a_learned_word_is_read_with_its_name(tmp_path: Path) -> None:
    bundle = tiny_sd()
    adapter = read_adapter(bundle, saved({"emb_params": words(bundle, "cat")["text"]}, tmp_path / "toy.safetensors"))
    assert (adapter.trigger, adapter.report.found) == ("toy", 1.0)
    with Patch(bundle) as patch:
        wear_rows(patch, bundle, adapter)
        assert torch.allclose(states(bundle, "a toy"), states(bundle, "a cat"), atol=1e-6)


def test_rows_for_one_of_two_encoders_are_refused() -> None:
    bundle = tiny_sdxl()
    rows = words(bundle, "cat")
    with Patch(bundle) as patch, pytest.raises(CheckpointMismatch, match="another model"):
        wear_rows(patch, bundle, Adapter("toy", LowRank(), {}, {"text": rows["text"]}, "<toy>"))


@pytest.mark.parametrize(("prompt", "warned"), [("a cat", True), ("a SKS on red", False), ("sksy", True)])
def test_a_forgotten_trigger_is_pointed_out_once_a_run(prompt: str, warned: bool) -> None:
    bundle = tiny_sd()
    with Patch(bundle) as patch, warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        remind(patch, bundle, Adapter("fox", LowRank(), trigger="sks"))
        states(bundle, "")
        states(bundle, prompt)
        for _ in range(2):
            bundle.tell(Started(1, (0,)))
    assert len([w for w in seen if "'sks'" in str(w.message)]) == int(warned)


def test_an_adapter_without_a_word_asks_for_none() -> None:
    bundle, before = tiny_sd(), fingerprint(tiny_sd())
    with Patch(bundle) as patch:
        remind(patch, bundle, Adapter("plain", LowRank()))
        wear_rows(patch, bundle, Adapter("plain", LowRank()))
        assert differences(before, fingerprint(bundle)) == []
    assert SIDE
