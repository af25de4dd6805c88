import pytest
import torch

import workbench as wb
from tests.folders import tiny_folder
from tests.tiny import tiny_sd
from tests.toys import listed, unlisted
from workbench.core.method import Card, Metric
from workbench.core.report import Report
from workbench.runs import verbs
from workbench.runs.store import FolderStore

FAST = {"sampler": wb.method("diffuse", steps=2)}


@unlisted
class Mean(Metric):
    """The mean value of the pixels."""

    card = Card("toy-mean", "Mean", "none", ("any",), "instant", "toys")

    def score(self, images: torch.Tensor, ask: wb.Ask, bundle: wb.Bundle) -> Report:
        return Report(numbers={"value": float(images.float().mean()), "prompts": len(ask)})


def test_load_attaches_the_store() -> None:
    assert isinstance(wb.load(tiny_folder(), device="cpu").store, FolderStore)


def test_a_picture_follows_its_prompt_and_seed() -> None:
    both = wb.sample(tiny_sd(), ["a cat", "the dog"], seeds=[3, 4], **FAST)
    alone = wb.sample(tiny_sd(), "the dog", seeds=4, **FAST)
    assert both.shape == (2, 3, 16, 16)
    assert both.dtype == torch.uint8
    assert (both[1].int() - alone[0].int()).abs().max() <= 1  # 2e-6 before rounding


def test_edits_given_or_in_force_are_the_same() -> None:
    freeu = wb.method("freeu")
    given = wb.sample(tiny_sd(), "a cat", edits=[freeu], **FAST)
    with wb.using(tiny_sd(), freeu) as edited:
        assert torch.equal(wb.sample(edited, "a cat", **FAST), given)
    assert not torch.equal(wb.sample(tiny_sd(), "a cat", **FAST), given)


def test_samplers_and_lenses_may_be_named() -> None:
    report = wb.look("denoise-film", tiny_sd(), "a cat", **FAST)
    assert report.panels
    assert report.problems() == []


def test_a_metric_scores_pictures_of_prompts() -> None:
    with listed(Mean):
        images = torch.full((2, 3, 4, 4), 7, dtype=torch.uint8)
        assert wb.score("toy-mean", images, ["a", "b"], tiny_sd()).numbers["value"] == 7.0
        assert wb.score(Mean(), images, wb.Ask(prompts=["a", "b"]), tiny_sd()).numbers["prompts"] == 2
        with pytest.raises(wb.AskError, match="2 pictures and 1 prompts"):
            wb.score("toy-mean", images, "a", tiny_sd())


def test_a_method_of_another_kind_is_refused() -> None:
    with pytest.raises(wb.AskError, match="freeu is not a sampler"):
        wb.sample(tiny_sd(), "a cat", sampler="freeu")
    with pytest.raises(wb.AskError, match="diffuse is not a lens"):
        wb.look(wb.method("diffuse"), tiny_sd(), "a cat")  # type: ignore[arg-type]


def test_the_public_verbs_are_here() -> None:
    assert [name for name in ("load", "look", "run", "sample", "score") if not hasattr(verbs, name)] == []
