import json
from pathlib import Path

import pytest
import torch

from tests.tiny import tiny_sd
from workbench.core.ask import Ask
from workbench.core.errors import UnsupportedFamily
from workbench.methods.generate.diffuse import Diffuse
from workbench.models.load import load
from workbench.models.reference import reference


@pytest.mark.parametrize("name", ["sd", "xl"])
def test_the_plain_pipeline_draws_what_ours_draws(shelf: Path, name: str) -> None:
    bundle = load(str(shelf / name))
    ask = Ask(prompts=["the red cat", "a dog"], negatives=["flat"], seeds=[3, 4])
    plain = reference(bundle, scheduler="ddim", steps=3, guidance=4.0)(ask)
    ours = Diffuse(scheduler="ddim", steps=3, guidance=4.0).sample(bundle, ask, lambda step: None)
    assert plain.dtype == torch.uint8
    assert plain.shape == ours.shape
    # one grey level: the two round sums of another order
    assert (plain.int() - ours.int()).abs().max() <= 1


def test_a_size_may_be_asked_for(shelf: Path) -> None:
    draw = reference(str(shelf / "sd"), steps=1, guidance=1.0)
    assert draw(Ask(prompts="a cat", size=(32, 16))).shape == (1, 3, 16, 32)


def test_a_model_without_files_has_no_plain_pipeline() -> None:
    with pytest.raises(UnsupportedFamily, match="was not read from the files"):
        reference(tiny_sd())


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm"])
def test_no_scheduler_clips_latents_whatever_the_folder_was_trained_with(folder: Path, scheduler: str) -> None:
    """A DPM++ configuration says nothing of clipping, and DDIM and DDPM would clip then."""
    config = {"_class_name": "DPMSolverMultistepScheduler", "prediction_type": "v_prediction", "steps_offset": 1}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    index = folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "scheduler": ["diffusers", config["_class_name"]]}))
    bundle, ask = load(str(folder)), Ask(prompts="the red cat")
    plain = reference(bundle, scheduler=scheduler, steps=3)(ask)
    ours = Diffuse(scheduler=scheduler, steps=3).sample(bundle, ask, lambda step: None)
    assert (plain.int() - ours.int()).abs().max() <= 1


@pytest.mark.parametrize(
    ("name", "scheduler"),
    [("sd3", "euler"), ("sd3-short", "dpm++"), ("pixart", "dpm++"), ("flux", "euler"), ("flux", "unipc")],
)
def test_transformers_have_plain_pipelines_that_draw_what_ours_draws(patches: Path, name: str, scheduler: str) -> None:
    bundle = load(str(patches / name))
    ask = Ask(prompts=["the red cat", "a dog"], negatives=["flat"], seeds=[3, 4])
    settings = {"scheduler": scheduler, "steps": 2, "guidance": 4.0, "true_guidance": 2.0}
    plain = reference(bundle, **settings)(ask)
    ours = Diffuse(**settings).sample(bundle, ask, lambda step: None)
    assert plain.shape == ours.shape == (2, 3, 16, 16)
    assert (plain.int() - ours.int()).abs().max() <= 1


def test_what_does_not_compare_is_refused(patches: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedFamily, match="would draw lcm's noise from the global generator"):
        reference(str(patches / "sd3"), scheduler="lcm")
    draw = reference(str(patches / "pixart"), steps=1)
    with pytest.raises(UnsupportedFamily, match="PixArtSigmaPipeline is compared from text alone"):
        draw(Ask(prompts="a cat", image=tmp_path / "any.png"))
