"""k-means: clear clusters are found, the same each time, and no cluster stays empty."""

import pytest
import torch

from workbench.core.errors import AskError
from workbench.ops.clusters import kmeans


def test_clear_clusters_are_found() -> None:
    middles = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    points = middles.repeat_interleave(5, 0) + 0.1 * torch.randn(15, 2, generator=torch.Generator().manual_seed(0))
    centres, labels = kmeans(points, 3)
    assert sorted(labels.bincount().tolist()) == [5, 5, 5]
    for middle in middles.double():
        assert (centres - middle).norm(dim=1).min() < 0.2


def test_the_same_seed_gives_the_same_clusters_and_draws_from_no_one_else() -> None:
    points = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
    before = torch.get_rng_state()
    one, other = kmeans(points, 6, seed=3), kmeans(points, 6, seed=3)
    assert torch.equal(one[0], other[0])
    assert torch.equal(before, torch.get_rng_state())


def test_centres_are_the_means_of_their_points_even_of_equal_ones() -> None:
    points = torch.cat([torch.zeros(6, 2), torch.ones(1, 2)])
    centres, labels = kmeans(points, 3)
    assert labels.bincount(minlength=3).min() >= 1
    for i in range(3):
        assert torch.allclose(centres[i], points[labels == i].double().mean(0))


def test_more_clusters_than_points_are_refused() -> None:
    with pytest.raises(AskError, match="4 clusters were asked for among 3"):
        kmeans(torch.zeros(3, 2), 4)
