"""The judge's shapes and its file."""

import torch

from workbench.models.judge import GRID, Judge, JudgeConfig

CONFIG = JudgeConfig(("cat face", "pizza"), ("flat", "ink"), width=64)


def test_cells_objects_and_styles_each_have_a_class_for_none() -> None:
    verdict = Judge(CONFIG)(torch.zeros(2, 3, 128, 128))
    assert verdict.cells.shape == (2, 3, GRID, GRID)
    assert verdict.objects.shape == (2, 3)
    assert verdict.styles.shape == (2, 3)


def test_a_judge_is_saved_and_read_back(tmp_path) -> None:
    judge = Judge(CONFIG).half().float()  # the file holds halves
    judge.save(tmp_path)
    back = Judge.load(tmp_path)
    assert back.config == CONFIG
    picture = torch.rand(1, 3, 64, 64) * 2 - 1
    assert torch.equal(judge(picture).objects, back(picture).objects)


def test_a_picture_of_another_size_is_judged_too() -> None:
    judge = Judge(CONFIG)
    assert torch.isfinite(judge(torch.zeros(1, 3, 100, 160)).objects).all()
