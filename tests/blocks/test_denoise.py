"""The one loop against diffusers' own pipelines, and what a run promises."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from tests.tiny import PIXELS, sd_pipe, sdxl_pipe, tiny_sd, tiny_sd3, tiny_sdxl
from workbench.blocks.denoise import Course, denoise, draw, noised, picture_size
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle
from workbench.core.errors import AskError, CheckpointMismatch, Stopped
from workbench.core.patch import Patch, differences, fingerprint
from workbench.core.tape import Ended, Started, Step, ignore
from workbench.models.unet import from_pipeline

#: Our name of a scheduler -> diffusers' class and what it takes to be that solver.
REFERENCE = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-a": ("EulerAncestralDiscreteScheduler", {}),
    "dpm++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
}
PIPES = {
    ("sd", "text"): "StableDiffusionPipeline",
    ("sd", "image"): "StableDiffusionImg2ImgPipeline",
    ("sd", "inpaint"): "StableDiffusionInpaintPipeline",
    ("xl", "text"): "StableDiffusionXLPipeline",
    ("xl", "image"): "StableDiffusionXLImg2ImgPipeline",
    ("xl", "inpaint"): "StableDiffusionXLInpaintPipeline",
}
PROMPTS = ("a cat", "the red dog")
NEGATIVES = ("flat", "dog")
SEEDS = (3, 1234567890123)
STEPS = 5

both = pytest.mark.parametrize("family", ["sd", "xl"])
all_schedulers = pytest.mark.parametrize("scheduler", list(REFERENCE))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A picture of noise and a mask with a hard edge, as PNG files."""
    folder = tmp_path_factory.mktemp("pictures")
    pixels = np.random.default_rng(0).integers(0, 256, (PIXELS, PIXELS, 3), dtype=np.uint8)
    mask = np.zeros((PIXELS, PIXELS), dtype=np.uint8)
    mask[4:, 6:] = 255
    Image.fromarray(pixels).save(folder / "image.png")
    Image.fromarray(mask).save(folder / "mask.png")
    return {"image": folder / "image.png", "mask": folder / "mask.png"}


@pytest.fixture(scope="module")
def pipes() -> dict[str, Any]:
    """The pipelines of the shared bundles, made a second time from the same seeds."""
    return {"sd": sd_pipe(), "xl": sdxl_pipe()}


@pytest.fixture
def clean() -> Iterator[None]:
    """The shared bundles must be left as they were."""
    before = [fingerprint(bundle) for bundle in (tiny_sd(), tiny_sdxl())]
    yield
    after = [fingerprint(bundle) for bundle in (tiny_sd(), tiny_sdxl())]
    assert [differences(*pair) for pair in zip(before, after, strict=True)] == [[], []]


def bundle_of(family: str) -> Bundle:
    return tiny_sd() if family == "sd" else tiny_sdxl()


def asked(task: str, files: dict[str, Path], **changes: Any) -> Ask:
    given = {"text": (), "image": ("image",), "inpaint": ("image", "mask")}[task]
    plain = {"prompts": PROMPTS, "negatives": NEGATIVES, "seeds": SEEDS}
    return Ask(**{**plain, **{name: files[name] for name in given}, **changes})


def reference(pipe: Any, family: str, task: str, scheduler: str, files: dict[str, Path], **more: Any) -> torch.Tensor:
    """The final latents of diffusers' pipeline over the same parts."""
    other = getattr(diffusers, PIPES[family, task]).from_pipe(pipe)
    kind, settings = REFERENCE[scheduler]
    other.scheduler = getattr(diffusers, kind).from_config(pipe.scheduler.config, **settings)
    other.set_progress_bar_config(disable=True)
    inputs: dict[str, Any] = {"prompt": list(PROMPTS), "negative_prompt": list(NEGATIVES), "guidance_scale": 4.0}
    inputs["generator"] = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    if task != "text":  # one picture a row: a single one would be encoded once, with the first row's generator
        inputs |= {"image": [Image.open(files["image"])] * len(PROMPTS), "strength": 0.6}
    if task == "inpaint":
        inputs["mask_image"] = [Image.open(files["mask"])] * len(PROMPTS)
    if task != "image":
        inputs |= {"height": PIXELS, "width": PIXELS}
    return other(**inputs | {"num_inference_steps": STEPS, "output_type": "latent"} | more).images


def ours(bundle: Bundle, ask: Ask, scheduler: str, **more: Any) -> torch.Tensor:
    course = Course(**{"scheduler": scheduler, "steps": STEPS, "guidance": 4.0, "strength": 0.6} | more)
    with torch.no_grad():
        return denoise(bundle, ask, ignore, course, picture_size(bundle, ask))


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal to 1e-5 of the latents' own spread.

    A random network does not denoise, so the spread stays that of the first noise: 1 or, for some schedulers, 15.
    """
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.std())


@all_schedulers
@both
@pytest.mark.parametrize("task", ["text", "image", "inpaint"])
def test_the_loop_equals_diffusers(task: str, family: str, scheduler: str, pipes: Any, files: Any) -> None:
    expected = reference(pipes[family], family, task, scheduler, files)
    found = ours(bundle_of(family), asked(task, files), scheduler)
    assert_same(found, expected)


@both
@pytest.mark.parametrize("scheduler", ["ddim", "euler-a"])
def test_inpainting_from_pure_noise_equals_diffusers(family: str, scheduler: str, pipes: Any, files: Any) -> None:
    expected = reference(pipes[family], family, "inpaint", scheduler, files, strength=1.0)
    found = ours(bundle_of(family), asked("inpaint", files), scheduler, strength=1.0)
    assert_same(found, expected)


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "dpm++"])
def test_an_inpainting_model_of_nine_channels_equals_diffusers(scheduler: str, files: Any) -> None:
    pipe = sd_pipe(in_channels=9)
    expected = reference(pipe, "sd", "inpaint", scheduler, files)
    bundle = from_pipeline(sd_pipe(in_channels=9), name="tiny-inpaint")
    assert_same(ours(bundle, asked("inpaint", files), scheduler), expected)


@both
def test_no_guidance_and_no_negatives_equal_diffusers(family: str, pipes: Any, files: Any) -> None:
    for guidance in (1.0, 4.0):  # without a negative prompt, XL's unconditional text is all zeros
        expected = reference(
            pipes[family], family, "text", "ddim", files, negative_prompt=None, guidance_scale=guidance
        )
        found = ours(bundle_of(family), asked("text", files, negatives=()), "ddim", guidance=guidance)
        assert_same(found, expected)


@both
def test_other_sizes_equal_diffusers(family: str, pipes: Any, files: Any) -> None:
    expected = reference(pipes[family], family, "text", "ddim", files, width=24, height=16)
    found = ours(bundle_of(family), asked("text", files, size=(24, 16)), "ddim")
    assert found.shape == (2, 4, 8, 12)
    assert_same(found, expected)


@both
@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
def test_v_prediction_and_the_decoded_picture_equal_diffusers(family: str, prediction: str, files: Any) -> None:
    make = sd_pipe if family == "sd" else sdxl_pipe
    pipe, twin = make(), make()
    for each in (pipe, twin):
        each.scheduler = type(each.scheduler).from_config(each.scheduler.config, prediction_type=prediction)
    expected = reference(pipe, family, "text", "ddim", files, output_type="pt")
    bundle = from_pipeline(twin, name="tiny")
    course = Course("ddim", STEPS, 4.0)
    found = draw(bundle, asked("text", files), ignore, course)
    # a rounding of 1e-6 may tip a pixel over to its neighbour among 256 values
    assert (found.float() - 255 * expected).abs().max() <= 0.5 + 1e-2


@all_schedulers
@both
@pytest.mark.parametrize("task", ["text", "image", "inpaint"])
def test_a_batch_of_four_equals_four_of_one(task: str, family: str, scheduler: str, files: Any) -> None:
    bundle = bundle_of(family)
    prompts, seeds = ("a cat", "the red dog", "", "a cat"), (5, 6, 7, 8)
    ask = asked(task, files, prompts=prompts, seeds=seeds, negatives=("dog", "", "flat", "dog"))
    together = ours(bundle, ask, scheduler, steps=3)
    alone = torch.cat([ours(bundle, ask.row(i), scheduler, steps=3) for i in range(4)])
    assert_same(together, alone)


@pytest.mark.usefixtures("clean")
def test_a_run_is_announced_shown_step_by_step_and_ended() -> None:
    bundle, events, steps = tiny_sd(), [], []
    ask = Ask(prompts=PROMPTS, seeds=SEEDS)
    with Patch(bundle) as patch:
        patch.each(events.append)
        images = draw(bundle, ask, steps.append, Course("ddim", 3, 2.0))
    assert images.shape == (2, 3, PIXELS, PIXELS)
    assert images.dtype == torch.uint8
    assert events[0] == Started(3, SEEDS)
    assert events[1:-1] == steps
    assert isinstance(events[-1], Ended)
    assert [(step.index, step.total) for step in steps] == [(0, 3), (1, 3), (2, 3)]
    assert [step.level for step in steps] == sorted((step.level for step in steps), reverse=True)
    for step in steps:
        assert step.x.shape == step.x0.shape == (2, 4, 8, 8)
        assert torch.isfinite(step.x).all()
        assert torch.isfinite(step.x0).all()


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("at", [0, 2])
def test_stopped_ends_the_run_at_that_step(at: int) -> None:
    bundle, events = tiny_sd(), []

    def stop(step: Step) -> None:
        if step.index == at:
            raise Stopped

    with Patch(bundle) as patch:
        patch.each(events.append)
        with pytest.raises(Stopped):
            draw(bundle, Ask(prompts=PROMPTS), stop, Course("ddim", 10, 2.0))
    assert [type(event) for event in events] == [Started, *[Step] * (at + 1), Ended]


@pytest.mark.usefixtures("clean")
def test_the_condition_tells_each_row_its_seed_role_and_step() -> None:
    bundle, seen = tiny_sd(), []

    def watch(predict: Any) -> Any:
        def watched(x: torch.Tensor, t: torch.Tensor, cond: Any) -> torch.Tensor:
            seen.append((tuple(x.shape), tuple(t.shape), cond.seeds, cond.roles, cond.step.index, cond.step.x0))
            return predict(x, t, cond)

        return watched

    with Patch(bundle) as patch:
        patch.wrap("predict", watch)
        draw(bundle, Ask(prompts=PROMPTS, seeds=SEEDS), ignore, Course("ddim", 2, 3.0))
        draw(bundle, Ask(prompts=PROMPTS, seeds=SEEDS), ignore, Course("ddim", 1, 1.0))
    assert [row[4:] for row in seen] == [(0, None), (1, None), (0, None)]
    assert seen[0][:4] == ((4, 4, 8, 8), (4,), SEEDS * 2, ("uncond", "uncond", "cond", "cond"))
    assert seen[2][:4] == ((2, 4, 8, 8), (2,), SEEDS, ("cond", "cond"))


def test_the_global_generators_are_neither_used_nor_moved() -> None:
    bundle, ask = tiny_sd(), Ask(prompts=PROMPTS, seeds=SEEDS)
    runs = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        runs.append(draw(bundle, ask, ignore, Course("ddpm", 3, 3.0)))
        assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(*runs)


def test_outside_the_mask_the_picture_keeps_its_pixels(files: Any) -> None:
    pixels = torch.from_numpy(np.array(Image.open(files["image"]))).permute(2, 0, 1)
    mask = torch.from_numpy(np.array(Image.open(files["mask"]))) > 0
    images = draw(tiny_sd(), asked("inpaint", files), ignore, Course("ddim", 4, 3.0))
    for image in images:
        assert torch.equal(image[:, ~mask], pixels[:, ~mask])
        assert not torch.equal(image[:, mask], pixels[:, mask])


def test_a_picture_decides_the_size_where_none_is_asked(tmp_path: Path) -> None:
    Image.new("RGB", (200, 100)).save(tmp_path / "wide.png")
    width, height = picture_size(tiny_sd(), Ask(prompts="a cat", image=tmp_path / "wide.png"))
    assert (width % 2, height % 2) == (0, 0)
    assert width / height == pytest.approx(2, abs=0.2)
    assert width * height == pytest.approx(PIXELS**2, rel=0.2)


def test_what_cannot_be_drawn_is_refused_with_a_way_out(tmp_path: Path, files: Any) -> None:
    bundle, course = tiny_sd(), Course("ddim", 4, 3.0, strength=0.1)
    with pytest.raises(AskError, match=r"The size is 17x16; tiny-sd draws multiples of 2 pixels. Try 16x16"):
        draw(bundle, Ask(prompts="a cat", size=(17, 16)), ignore, course)
    with pytest.raises(AskError, match=r"Strength 0.1 of 4 steps leaves none to take. Give at least 0.25"):
        draw(bundle, asked("image", files), ignore, course)
    Image.new("L", (8, 8)).save(tmp_path / "small.png")
    with pytest.raises(AskError, match=r"The mask is 8x8 and the picture 16x16"):
        draw(bundle, asked("inpaint", files, mask=tmp_path / "small.png"), ignore, Course("ddim", 4, 3.0))
    with pytest.raises(AskError, match=r"There is no scheduler 'eular'. There are: ddim"):
        draw(bundle, Ask(prompts="a cat"), ignore, Course("eular", 4, 3.0))


def test_values_that_are_not_finite_are_reported() -> None:
    bundle = tiny_sd()
    with Patch(bundle) as patch:
        patch.wrap("predict", lambda predict: lambda x, t, cond: predict(x, t, cond) * float("nan"))
        with pytest.raises(CheckpointMismatch, match="not finite"):
            draw(bundle, Ask(prompts="a cat"), ignore, Course("ddim", 2, 3.0))


@pytest.mark.parametrize("kind", ["image", "inpaint"])
def test_a_model_of_flow_matching_starts_from_a_picture_too(kind: str, tmp_path: Path) -> None:
    """At strength 0.01 of many steps the picture is all but kept; inside a mask alone it is redrawn."""
    bundle, drawn = tiny_sd3(), np.zeros((16, 16, 3), np.uint8)
    drawn[:, 8:] = 200
    Image.fromarray(drawn).save(tmp_path / "picture.png")
    given: dict[str, Any] = {"prompts": ["a cat"], "seeds": [3], "image": tmp_path / "picture.png"}
    if kind == "inpaint":
        Image.fromarray((drawn[..., 0] > 0).astype(np.uint8) * 255).save(tmp_path / "mask.png")
        given["mask"] = tmp_path / "mask.png"
    states: list[torch.Tensor] = []
    images = draw(bundle, Ask(**given), lambda step: states.append(step.x), Course("euler", 10, 1.0, strength=0.2))  # type: ignore[arg-type]
    assert len(states) == 2
    pixels = torch.from_numpy(drawn).permute(2, 0, 1)[None]
    clean = bundle.encode(pixels.float() / 127.5 - 1, [torch.Generator().manual_seed(3)])
    assert (states[0] - clean).abs().mean() < 1.0  # sigma 0.43 of noise, not the noise alone
    if kind == "inpaint":
        assert torch.equal(images[..., :8], pixels[..., :8])


def test_noise_goes_into_a_flow_by_its_level() -> None:
    scheduler = tiny_sd3().scheduler("euler", 4)
    clean, noise = torch.ones(1, 4, 8, 8), 3 * torch.ones(1, 4, 8, 8)
    for index, t in enumerate(scheduler.timesteps):
        sigma = scheduler.sigmas[index]
        torch.testing.assert_close(noised(scheduler, clean, noise, t[None]), (1 - sigma) * clean + sigma * noise)
