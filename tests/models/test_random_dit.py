"""A random transformer: as many tokens as asked, the same for a seed, sites like a loaded one's."""

import torch

from workbench.core.ask import Ask
from workbench.core.scene import Scene
from workbench.methods.generate.diffuse import Diffuse
from workbench.models.random_dit import random_dit


def test_it_draws_and_repeats_itself() -> None:
    bundle = random_dit(32, 2, 16, heads=2)
    scene = Scene(bundle, Diffuse(steps=2), (), Ask(prompts=["a cat", "a dog"], seeds=[1, 2]))
    first = scene.run()
    assert first.shape == (2, 3, 16, 16)
    assert torch.equal(first, scene.run())
    again = Scene(random_dit(32, 2, 16, heads=2), scene.sampler, (), scene.ask).run()
    assert torch.equal(first, again)
    assert not torch.equal(first, Scene(random_dit(32, 2, 16, heads=2, seed=1), scene.sampler, (), scene.ask).run())


def test_its_attention_has_a_token_for_each_patch() -> None:
    sites = random_dit(32, 3, 16, heads=2).sites("self-attention")
    assert [site.tokens for site in sites] == [64, 64, 64]
    assert {site.heads for site in sites} == {2}
