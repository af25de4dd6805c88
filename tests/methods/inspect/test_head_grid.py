"""Head grid: each number by loops on what a site really computed, grids of equal heads, gates that show."""

import numpy as np
import pytest
import torch

from tests.tiny import tiny_sd, tiny_sdxl
from tests.toys import Fade
from workbench.blocks.recorder import Look
from workbench.core.ask import Ask
from workbench.core.attend import Attention
from workbench.core.patch import fingerprint
from workbench.core.report import Heat, Table
from workbench.core.scene import Scene
from workbench.methods.generate.diffuse import Diffuse
from workbench.methods.inspect.head_grid import CROSS, SELF, HeadGrid, cross_numbers, self_numbers

ASK = Ask(prompts=["a cat", "the red dog"], seeds=[1, 2])


def scene(make=tiny_sd, *edits) -> Scene:
    return Scene(make(), Diffuse(steps=2, guidance=3.0), edits, ASK)


def look_at(query: torch.Tensor, key: torch.Tensor, size: tuple[int, int]) -> Look:
    return Look(tiny_sd().sites("self-attention")[0], Attention(query, key, key), None, size)


def test_self_attention_numbers_by_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = (3 * torch.randn(1, 1, 6, 4, generator=generator) for _ in range(2))
    w = (q.double() @ k.double().mT / 2).softmax(-1)[0, 0].numpy()
    at = [((r + 0.5) / 2, (c + 0.5) / 3) for r in range(2) for c in range(3)]
    mean = w.mean(0)
    cut = lambda row: np.where(row >= 2 / 6, row, 0)  # noqa: E731
    even = np.mean([-(row * np.log(row)).sum() / np.log(6) for row in w])
    over = np.mean([
        (cut(row) @ cut(mean)) / s if (s := np.linalg.norm(cut(row)) * np.linalg.norm(cut(mean))) else 0 for row in w
    ])  # fmt: skip
    apart = np.array([[np.hypot(a[0] - b[0], a[1] - b[1]) for b in at] for a in at])
    reach = np.mean([(w[i] * apart[i]).sum() / apart[i].mean() for i in range(6)])
    down = np.mean([(w[i] * (np.array(at)[:, 0] - 0.5)).sum() for i in range(6)])
    found = self_numbers(look_at(q, k, (2, 3)))[0, 0].double().numpy()
    assert np.allclose(found, [even, over, reach, down], atol=1e-6)


def test_cross_attention_on_the_start_token() -> None:
    keys = torch.tensor([100.0, 0, 0, 0, 0])[None, None, :, None].expand(1, 1, 5, 2)
    on_start = cross_numbers(look_at(torch.ones(1, 1, 3, 2), keys, (1, 3)))
    assert torch.allclose(on_start, torch.tensor([[[0.0, 1.0, 1.0]]]), atol=1e-6)
    flat = cross_numbers(look_at(torch.zeros(1, 1, 3, 2), keys, (1, 3)))
    assert torch.allclose(flat, torch.tensor([[[1.0, 0.0, 0.2]]]), atol=1e-6)


@pytest.mark.parametrize("make", [tiny_sd, tiny_sdxl])
@pytest.mark.parametrize("of", ["self-attention", "cross-attention"])
def test_a_grid_a_number_and_a_line_a_head(make, of) -> None:
    scene(make).run()
    before = fingerprint(make())
    report = HeadGrid(of=of).look(scene(make))
    assert fingerprint(make()) == before
    assert report.problems() == []
    sites, names = make().sites(of), SELF if of == "self-attention" else CROSS
    counts = {site.heads for site in sites}
    heats = [panel for panel in report.panels if isinstance(panel, Heat)]
    assert len(heats) == len(counts) * len(names)
    assert sum(heat.values.shape[0] for heat in heats) == len(sites) * len(names)
    table = next(panel for panel in report.panels if isinstance(panel, Table))
    assert len(table.rows) == sum(site.heads for site in sites)
    assert 0 <= report.numbers["overfocus"] <= 1
    assert 0 < report.numbers["evenness"] <= 1


def test_an_edit_shows() -> None:
    plain, faded = (HeadGrid(moment=1.0).look(scene(tiny_sd, *edits)).numbers for edits in ((), (Fade(),)))
    assert dict(plain) != dict(faded)
