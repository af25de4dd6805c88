"""Bad requests of a decoder by scale: one line on the command line that names the value and what is possible."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny import var_parts
from workbench import cli
from workbench.models.var import VARPipeline, VARScheduler

Call = Callable[..., tuple[int, str, str]]
GRIDS = (1, 2, 3, 4, 6, 8)


def saved(folder: Path, prediction: str) -> str:
    """A tiny pipeline of five classes with a refiner."""
    vq, net = var_parts(prediction=prediction, pooled_dim=0, text_model="")
    refiner = var_parts(1, depth=1, prediction=prediction, pooled_dim=0, text_model="")[1]
    VARPipeline(vq, net, VARScheduler(patch_nums=GRIDS), refiner).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tmp_path_factory.mktemp("var") / "tiny", "residual")


@pytest.fixture(scope="module")
def direct(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tmp_path_factory.mktemp("var") / "flex", "direct")


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """The one line with which a request fails."""

    def refused(model: str, prompt: str, sampler: str, wanted: int = 2) -> str:
        capsys.readouterr()
        code = cli.main(["sample", prompt, "--model", model, "--sampler", sampler, "--device", "cpu",
                         "--out", str(tmp_path / "out")])  # fmt: skip
        out, err = capsys.readouterr()
        assert code == wanted
        assert out == ""
        assert "Traceback" not in err
        line = err.strip().splitlines()[-1]
        assert sum("workbench" in each for each in err.splitlines()) <= 1
        return line

    return refused


def test_a_sound_request_is_drawn(residual: str, tmp_path: Path) -> None:
    words = ["sample", "class:2", "--model", residual, "--sampler", "code split=3 top_k=24", "--device", "cpu"]
    assert cli.main([*words, "--out", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize(
    ("prompt", "sampler", "line"),
    [
        ("class:2", "code split=6", "split is 6; tiny has 6 scales, so the drafter can do 1 to 5 of them. Try 4."),
        ("class:2", "code split=0", "split is '0'; it should be greater than or equal to 1."),
        ("class:2", "var top_k=25", "top_k is 25; the model's vocabulary has 24 tokens. Give at most that, or 0"),
        ("class:2", "var top_k=-1", "top_k is '-1'; it should be greater than or equal to 0."),
        ("class:5", "var", "The prompt is 'class:5'; the classes of tiny are 0 to 4. Ask for class:0."),
        ("class:-1", "var", "The prompt is 'class:-1'; the classes of tiny are 0 to 4. Ask for class:0."),
        ("a cat", "var", "The prompt is 'a cat'; tiny draws classes. Ask for class:0 to class:4."),
        ("class:2", "flexvar schedule=[1,8]", "tiny predicts residuals over its own scales and takes no other"),
    ],
)
def test_requests_of_a_residual_model(
    residual: str, refused: Callable[..., str], prompt: str, sampler: str, line: str
) -> None:
    assert line in refused(residual, prompt, sampler)


@pytest.mark.parametrize(
    ("sampler", "line"),
    [
        ("flexvar schedule=[1,2,4]", "The schedule ends at 4x4; the latent of this picture is 8x8. Let the last"),
        ("flexvar schedule=[1,4,2,8]", "The schedule goes from 4x4 to 2x2; every scale must be finer."),
        ("flexvar schedule=two", "A scale is 'two'; it must be a side such as 4, or rows and columns"),
        ("flexvar steps=9", "steps is 9; a latent of 8 cells a side has at most 8 scales."),
    ],
)
def test_schedules_of_a_model_that_takes_any(direct: str, refused: Callable[..., str], sampler: str, line: str) -> None:
    assert line in refused(direct, "class:2", sampler)


def test_parts_of_two_models_are_named(
    residual: str, direct: str, refused: Callable[..., str], tmp_path: Path
) -> None:  # fmt: skip
    """The autoencoder of one model in the folder of another: the request was sound, so it failed (1)."""
    mixed = tmp_path / "mixed"
    shutil.copytree(residual, mixed)
    shutil.rmtree(mixed / "vq")
    shutil.copytree(Path(direct) / "vq", mixed / "vq")
    line = refused(str(mixed), "class:2", "var", 1)
    assert "mixed: the VQ and the transformer differ in their prediction: direct and residual. They belong to" in line


@pytest.mark.parametrize(
    ("part", "changes"), [("vq", {"vocab_size": 30}), ("transformer", {"patch_nums": [1, 2, 3, 4, 5, 8]})]
)
def test_weights_that_do_not_fit_their_configuration_are_a_line(
    residual: str, refused: Callable[..., str], tmp_path: Path, part: str, changes: dict[str, object]
) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(residual, changed)
    config = changed / part / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
    line = refused(str(changed), "class:2", "var", 1)
    assert f"changed/{part} cannot be read: Cannot load because" in line
    assert line.endswith("a file is damaged; download the model again.")
    assert "ignore_mismatched_sizes" not in line


def test_a_schedule_may_be_given_as_numbers(direct: str, tmp_path: Path) -> None:
    words = ["sample", "class:2", "--model", direct, "--sampler", "flexvar schedule=[1,2,5,8]", "--device", "cpu"]
    assert cli.main([*words, "--out", str(tmp_path / "out")]) == 0
