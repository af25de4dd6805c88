"""Students in force: whose turn it is, whose weights they belong to, what they are told, and that nothing stays."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import save_file
from torch.testing import assert_close

from tests.contract.stage import unchanged
from tests.tiny import sd_pipe, tiny_sd, tiny_sdxl
from workbench.blocks.adapter_files import write
from workbench.blocks.adapters import read_adapter
from workbench.blocks.denoise import condition
from workbench.blocks.students import TOLD, spaced, studying
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle, Condition
from workbench.core.errors import AskError, CheckpointMismatch
from workbench.core.tape import Step
from workbench.models.unet import from_pipeline

ASK = Ask(prompts=["a cat"], seeds=[1])


def told(index: int = 0, total: int = 4) -> Condition:
    return replace(condition(tiny_sd(), ASK, False, (16, 16)), step=Step(index, total, 500.0))


@torch.no_grad()
def answer(bundle: Bundle, cond: Condition) -> torch.Tensor:
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return bundle.predict(x, torch.tensor([500]), cond)


def folder(tmp_path: Path, base: str) -> str:
    low = read_adapter(tiny_sd(), "random:1").low_rank
    write(low, tmp_path / "student", base=base)
    return str(tmp_path / "student")


def test_a_student_answers_while_it_is_in_force_and_leaves_no_trace() -> None:
    plain = answer(tiny_sd(), told())
    with unchanged(tiny_sd(), "a student", deep=True), studying(tiny_sd(), "random:1"):
        assert not torch.equal(answer(tiny_sd(), told()), plain)
    assert torch.equal(answer(tiny_sd(), told()), plain)


def test_nobody_changes_nothing() -> None:
    with studying(tiny_sd(), ""):
        inside = answer(tiny_sd(), told())
    assert torch.equal(inside, answer(tiny_sd(), told()))


def test_it_answers_only_when_it_is_its_turn() -> None:
    late = lambda cond: cond is None or cond.step is None or cond.step.index >= 1  # noqa: E731
    with studying(tiny_sd(), "random:1", late):
        first, second = (answer(tiny_sd(), told(index)) for index in (0, 1))
    assert torch.equal(first, answer(tiny_sd(), told()))
    with studying(tiny_sd(), "random:1"):
        assert torch.equal(second, answer(tiny_sd(), told()))


def test_a_student_of_other_weights_is_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(AskError) as caught, studying(tiny_sd(), folder(tmp_path, "f00dcafe0000")):
        pass
    text = str(caught.value)
    assert "f00dcafe" in text
    assert "tiny-sd" in text
    assert "\n" not in text


def test_a_student_of_these_weights_and_one_of_unknown_ones_are_taken(tmp_path: Path) -> None:
    for number, base in enumerate((tiny_sd().digest, "")):
        with studying(tiny_sd(), folder(tmp_path / str(number), base)):
            assert not torch.equal(answer(tiny_sd(), told()), torch.zeros(1))


def test_a_whole_model_answers_in_the_bases_place(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    other = from_pipeline(sd_pipe(seed=3), name="other", digest="other")
    base = replace(tiny_sd(), opener=lambda name: other)
    with unchanged(base, "a whole model"), studying(base, str(tmp_path)):
        assert torch.equal(answer(base, told()), answer(other, told()))


def test_a_whole_model_brings_its_schedule_and_is_told_its_guidance_where_it_reads_it(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    pipe = sd_pipe(seed=3, time_cond_proj_dim=8)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, prediction_type="v_prediction")
    other = from_pipeline(pipe, name="other", digest="other")
    base = replace(tiny_sd(), opener=lambda name: other)
    with studying(base, str(tmp_path)) as (drawn, _):
        assert drawn.scheduler("lcm", 2).config.prediction_type == "v_prediction"
        assert drawn.about["guidance_input"]
        assert drawn.parts is base.parts
    assert not base.about["guidance_input"]
    assert base.scheduler("lcm", 2).config.prediction_type == "epsilon"


@pytest.mark.parametrize("more", [{"time_cond_proj_dim": 8}, {}])
def test_a_whole_model_that_predicts_otherwise_takes_no_turns(more: dict[str, int], tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    pipe = sd_pipe(seed=3, **more)
    kind = "epsilon" if more else "v_prediction"
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, prediction_type=kind)
    other = from_pipeline(pipe, name="other", digest="other")
    base = replace(tiny_sd(), opener=lambda name: other)
    late = lambda cond: cond is None or cond.step is None or cond.step.index >= 1  # noqa: E731
    refused = pytest.raises(AskError, match="other cannot take turns with tiny-sd")
    with unchanged(base, "a student out of turn"), refused, studying(base, str(tmp_path), late):
        pass


def test_a_whole_model_of_another_shape_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    base = replace(tiny_sd(), opener=lambda name: tiny_sdxl())
    with pytest.raises(AskError, match="tiny-sdxl draws"), studying(base, str(tmp_path)):
        pass


def test_a_student_of_runs_is_told_how_long_this_one_is(tmp_path: Path) -> None:
    """The column beside the factors is read at the time embedding, times log2 of the number of steps."""
    place = folder(tmp_path, "")
    unet = tiny_sd().parts["unet"]
    column = torch.randn(unet.time_embedding.linear_1.in_features, 1, generator=torch.Generator().manual_seed(2))
    save_file({"unet:time_embedding.cond_proj.weight": column}, Path(place) / TOLD)
    with unchanged(tiny_sd(), "a told student", deep=True), studying(tiny_sd(), place):
        one, two, four = (answer(tiny_sd(), told(0, total)) for total in (1, 2, 4))
        assert not torch.equal(two, four)
    (Path(place) / TOLD).unlink()
    with studying(tiny_sd(), place):
        assert_close(answer(tiny_sd(), told(0, 4)), one, atol=1e-6, rtol=0)  # log2 1 = 0: nothing is added
    assert json.loads((Path(place) / "adapter_config.json").read_text())["peft_type"] == "LORA"


def test_the_base_is_not_told_the_students_column_before_its_turn(tmp_path: Path) -> None:
    place = folder(tmp_path, "")
    width = tiny_sd().parts["unet"].time_embedding.linear_1.in_features
    save_file({"unet:time_embedding.cond_proj.weight": torch.ones(width, 1)}, Path(place) / TOLD)
    late = lambda cond: cond is None or cond.step is None or cond.step.index >= 1  # noqa: E731
    with studying(tiny_sd(), place, late):
        first, second = (answer(tiny_sd(), told(index)) for index in (0, 1))
    assert torch.equal(first, answer(tiny_sd(), told()))
    with studying(tiny_sd(), place):
        assert torch.equal(second, answer(tiny_sd(), told(1)))


@pytest.mark.parametrize(
    ("key", "shape"),
    [("unet", (4, 1)), ("nobody:time_embedding.cond_proj.weight", (4, 1)), ("unet:conv_in.weight", (4, 1)),
     ("unet:time_embedding.cond_proj.weight", (3,)), ("unet:time_embedding.cond_proj.weight", (3, 1))],
)  # fmt: skip
def test_a_column_without_a_place_is_refused_in_a_line(key: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    place = folder(tmp_path, "")
    save_file({key: torch.ones(shape)}, Path(place) / TOLD)
    refused = pytest.raises(CheckpointMismatch, match="no free place")
    with unchanged(tiny_sd(), "a strange column"), refused as caught, studying(tiny_sd(), place):
        pass
    assert "\n" not in str(caught.value)


def test_more_steps_than_the_distillation_had_are_refused() -> None:
    scheduler = tiny_sd().scheduler("lcm", 1)
    spaced("lcm", scheduler, 4, 50)
    assert scheduler.timesteps.tolist() == [999, 759, 499, 259]
    with pytest.raises(AskError, match="lcm: steps is 5, must be at most the 4 of the distillation"):
        spaced("lcm", scheduler, 5, 4)
