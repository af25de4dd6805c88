"""The diffusers pipeline: the sampler's pictures, folders, one generator or one an image, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from tests.tiny import tiny_var, var_parts
from workbench.core.ask import Ask
from workbench.core.errors import AskError, CheckpointMismatch
from workbench.core.tape import ignore
from workbench.methods.decode.code import Code
from workbench.methods.decode.var import Var
from workbench.models.var import VARPipeline, VARScheduler, plain

SIDES = (1, 2, 3, 4, 6, 8)


def pipe() -> Any:
    vq, net = var_parts()
    return VARPipeline(vq, net, VARScheduler(patch_nums=SIDES, guidance=2.0, top_p=0.9), var_parts(1, depth=1)[1])


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def grey(images: torch.Tensor) -> torch.Tensor:
    return (images * 255).round().to(torch.uint8)


def test_it_draws_what_the_samplers_draw() -> None:
    ask = Ask(prompts=["class:2", "class:4"], seeds=[1, 2])
    found = pipe()([2, 4], generator=seeded(1, 2), output_type="pt").images
    assert torch.equal(grey(found), Var(guidance=2.0, top_p=0.9).sample(tiny_var(), ask, ignore))
    found = pipe()([2, 4], generator=seeded(1, 2), output_type="pt", split=3).images
    expected = Code(split=3, guidance=2.0, top_p=0.9, draft_temperature=1.0).sample(tiny_var(), ask, ignore)
    assert torch.equal(grey(found), expected)


def test_one_generator_is_consumed_over_all_pictures_as_the_original_does() -> None:
    made = pipe()
    latent = made([2], guidance_scale=3.0, generator=seeded(5)[0], output_type="latent").images
    net = made.transformer
    cond = torch.stack([net.null(), net.class_emb.weight[2]])
    slow, _ = plain.decode(made.vq, net, cond, guidance=3.0, top_p=0.9, generators=seeded(5))
    assert_close(latent, slow, atol=1e-4, rtol=0)
    both = made([2, 2], generator=seeded(5)[0], output_type="latent").images
    assert not torch.equal(both[0], both[1])


def test_guidance_may_be_one_an_image() -> None:
    made = pipe()
    both = made([2, 2], guidance_scale=[1.0, 3.0], generator=seeded(1, 1), output_type="latent").images
    for i, scale in enumerate((1.0, 3.0)):
        alone = made([2], guidance_scale=scale, generator=seeded(1), output_type="latent").images
        assert_close(both[i : i + 1], alone, atol=1e-4, rtol=0)


def test_a_folder_of_diffusers_keeps_it(tmp_path: Path) -> None:
    made = pipe()
    made.save_pretrained(tmp_path)
    again = VARPipeline.from_pretrained(tmp_path)
    first, second = (
        each(prompt_embeds=torch.ones(1, 12), generator=seeded(3), output_type="np").images for each in (made, again)
    )
    assert_close(torch.from_numpy(first), torch.from_numpy(second), atol=1e-5, rtol=0)
    assert again([1]).images[0].size == (16, 16)


def test_wrong_calls_are_one_line() -> None:
    made = pipe()
    for given, words in (
        ({}, "Give class_labels or prompt_embeds"),
        ({"class_labels": [6]}, r"class_labels is \[6\]; the classes are 0 to 4, and 5 is none"),
        ({"class_labels": [1], "split": 6}, "split is 6; it has to be 1 to 5"),
        ({"class_labels": [1, 2, 3], "generator": seeded(1, 2)}, "2 generators were given for 3 images"),
    ):
        with pytest.raises(AskError, match=words):
            made(**given)
    with pytest.raises(CheckpointMismatch, match="differ in their prediction: direct and residual"):
        VARPipeline(var_parts(prediction="direct")[0], var_parts()[1], VARScheduler())
