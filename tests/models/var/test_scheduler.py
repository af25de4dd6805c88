"""How a VAR draws, kept in a folder."""

from pathlib import Path

import pytest
import torch

from workbench.models.var import VARScheduler


def test_settings_survive_a_folder(tmp_path: Path) -> None:
    VARScheduler(patch_nums=(1, 2, 4), guidance=2.0, top_k=7).save_pretrained(tmp_path)
    again = VARScheduler.from_pretrained(tmp_path)
    assert (again.timesteps, again.config.guidance, again.config.top_k) == ([0, 1, 2], 2.0, 7)


def test_guidance_grows_for_all_or_for_each() -> None:
    scheduler = VARScheduler(patch_nums=(1, 2, 4), guidance=2.0)
    assert scheduler.scales(None, 2, torch.zeros(1)) == [1.0, 2.0, 3.0]
    each = scheduler.scales([1.0, 4.0], 2, torch.zeros(1))
    assert [value.flatten().tolist() for value in each] == [[1.0, 1.0], [1.5, 3.0], [2.0, 5.0]]  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="2 guidance scales were given for 3 images"):
        scheduler.scales([1.0, 4.0], 3, torch.zeros(1))


def test_a_call_may_change_what_the_folder_says() -> None:
    choice = VARScheduler(top_k=7, top_p=0.5).choice(top_k=None, top_p=0.8)
    assert (choice.top_k, choice.top_p, choice.smooth) == (7, 0.8, False)
