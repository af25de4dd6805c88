"""Agglomerative clustering: scikit-learn's partitions, the number of places asked for, and what is refused."""

import pytest
import torch

from tests.tiny import tiny_pixart, tiny_sd
from workbench.blocks.merging import Spot
from workbench.core.ask import Ask
from workbench.core.errors import AskError
from workbench.core.scene import Scene
from workbench.methods.generate.diffuse import Diffuse
from workbench.methods.reduce.atc import Atc, clusters


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def partition(labels: list[int]) -> set[frozenset[int]]:
    return {frozenset(i for i, label in enumerate(labels) if label == each) for each in set(labels)}


def test_the_nearest_pairs_merge_first_on_paper() -> None:
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [-1.0, 0.0]])
    assert partition(clusters(x, 1, "average")) == {frozenset({0, 2}), frozenset({1}), frozenset({3})}
    assert partition(clusters(x, 2, "single")) == {frozenset({0, 2, 1}), frozenset({3})}
    assert clusters(x, 3, "complete") == [0, 0, 0, 0]


@pytest.mark.parity
@pytest.mark.parametrize("linkage", ["single", "complete", "average"])
@pytest.mark.parametrize("count", [1, 20, 50, 63])
def test_partitions_are_scikit_learns(linkage: str, count: int) -> None:
    cluster = pytest.importorskip("sklearn.cluster", reason="no scikit-learn: pip install scikit-learn")
    x = noise(64, 8)
    unit = torch.nn.functional.normalize(x.double(), dim=-1)
    model = cluster.AgglomerativeClustering(n_clusters=64 - count, metric="precomputed", linkage=linkage)
    theirs = model.fit((1 - unit @ unit.T).numpy()).labels_.tolist()
    assert partition(clusters(x, count, linkage)) == partition(theirs)


def test_a_plan_has_as_many_places_as_asked_and_merges_equal_tokens_exactly() -> None:
    centres = noise(5, 6)
    x = centres[torch.arange(64) % 5][None].repeat(2, 1, 1)
    plan = Atc(ratio=0.9)._plan(x, Spot(0, tiny_sd().sites("block")[0], (8, 8)), None)
    assert plan is not None
    assert plan.places == 64 - 57
    torch.testing.assert_close(plan.unmerge(plan.merge(x)), x)


def test_it_draws_on_a_transformer_too() -> None:
    ask = Ask(prompts=["a cat"], seeds=[1])
    for bundle in (tiny_sd(), tiny_pixart()):
        sampler = Diffuse(steps=2)
        assert not torch.equal(Scene(bundle, sampler, (Atc(),), ask).run(), Scene(bundle, sampler, (), ask).run())


def test_too_many_tokens_are_refused() -> None:
    with pytest.raises(AskError, match="atc was to cluster 16,384 tokens a block; it takes up to 4,096"):
        Atc()._plan(torch.zeros(1, 1, 1), Spot(0, tiny_sd().sites("block")[0], (128, 128)), None)
