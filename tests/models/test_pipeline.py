import warnings
from pathlib import Path

import pytest
import torch

from tests.tiny import sd_pipe
from workbench.core.errors import CheckpointMismatch, MissingPart
from workbench.models.files import inspect
from workbench.models.pipeline import assemble, part_errors, quiet, read_pipeline, read_words


def test_quiet_gives_back_the_levels_it_found() -> None:
    import diffusers.utils.logging as log

    before = log.get_verbosity(), log.is_progress_bar_enabled()
    with quiet():
        assert log.get_verbosity() == log.ERROR
        assert not log.is_progress_bar_enabled()
        warnings.warn("an old configuration was mended", FutureWarning, stacklevel=1)
    assert (log.get_verbosity(), log.is_progress_bar_enabled()) == before


def test_what_a_library_raises_becomes_one_line() -> None:
    with (
        pytest.raises(CheckpointMismatch, match=r"^here cannot be read: two lines\. ") as caught,
        part_errors(Path("here")),
    ):
        raise RuntimeError("two\n  lines")
    assert "\n" not in str(caught.value)


def test_our_own_errors_pass_as_they_are() -> None:
    with pytest.raises(MissingPart, match=r"^gone$"), part_errors(Path("here")):
        raise MissingPart("gone")


def test_a_pipeline_is_of_the_folders_class_without_a_checker(shelf: Path) -> None:
    pipe = read_pipeline(inspect(shelf / "xl"), torch.float32)
    assert type(pipe).__name__ == "StableDiffusionXLPipeline"
    assert pipe.config.force_zeros_for_empty_prompt is True
    assert getattr(pipe, "safety_checker", None) is None


def test_parts_make_another_pipeline(shelf: Path) -> None:
    pipe = sd_pipe()
    other = assemble("StableDiffusionImg2ImgPipeline", pipe.components, {})
    assert other.unet is pipe.unet


def test_a_folder_without_a_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingPart, match="holds no vocabulary"):
        read_words(object, tmp_path)
