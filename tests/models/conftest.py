"""Every test of the loader has a cache of its own and never asks the hub."""

from pathlib import Path

import pytest
import torch

from tests.tiny import flux_pipe, pixart_pipe, sd3_pipe, sd_pipe, sdxl_pipe
from workbench.models import single, weights


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder for this test; the hub's client is told that it is offline and looks into an empty cache."""
    from huggingface_hub import constants

    place = tmp_path / "cache"
    for module in (single, weights):
        monkeypatch.setattr(module, "CACHE", place)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return place


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny SD and a tiny SDXL pipeline in diffusers' layout; read only."""
    place = tmp_path_factory.mktemp("shelf")
    torch.set_num_threads(1)
    sd_pipe().save_pretrained(place / "sd")
    sdxl_pipe().save_pretrained(place / "xl")
    return place


@pytest.fixture(scope="session")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny transformers' pipelines in diffusers' layout: sd3, sd3-short (no T5), pixart, flux; read only."""
    place = tmp_path_factory.mktemp("patches")
    torch.set_num_threads(1)
    sd3_pipe().save_pretrained(place / "sd3")
    sd3_pipe(t5=False).save_pretrained(place / "sd3-short")
    pixart_pipe(sigma=True).save_pretrained(place / "pixart")
    flux_pipe().save_pretrained(place / "flux")
    return place


@pytest.fixture
def folder(shelf: Path, tmp_path: Path) -> Path:
    """A copy of the tiny SD folder to spoil."""
    import shutil

    return Path(shutil.copytree(shelf / "sd", tmp_path / "sd"))
