"""Cross-scale attention: shares of looks against the weights of teacher forcing worked out by hand."""

import numpy as np
import pytest
import torch

from tests.tiny import tiny_var
from workbench.core.ask import Ask
from workbench.core.errors import AskError
from workbench.core.report import Film, Heat, Table
from workbench.core.scene import Scene
from workbench.core.tape import Step
from workbench.methods.decode.var import Var
from workbench.methods.inspect.cross_scale_attention import CrossScaleAttention

ASK = Ask(prompts=("class:1", "class:2"), seeds=(3, 4))
COUNTS = [1, 4, 9, 16, 36, 64]


def scene(**sampler: object) -> Scene:
    return Scene(tiny_var(), Var(**{"guidance": 0.0, "top_p": 0.9, **sampler}), (), ASK)


def weights_by_hand() -> list[torch.Tensor]:
    """Of each block [B, A, L, L] in float64, from the normalised queries and keys of teacher forcing."""
    bundle = tiny_var()
    vq, net = bundle.parts["vq"], bundle.parts["var"]
    states: list[Step] = []
    scene().run(tap=states.append)
    sides, x = [1, 2, 3, 4, 6, 8], [step.x for step in states]
    inputs = torch.cat(
        [vq.ask(k, x[k - 1]).flatten(2).transpose(1, 2) for k in range(1, 6)], 1)  # fmt: skip
    level = torch.tensor([k for k, p in enumerate(sides) for _ in range(p * p)])
    caught: list[torch.Tensor] = []

    def catch(module: torch.nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        q, k, _ = (output.double() + _bias(module)).view(2, 130, 3, 2, -1).permute(2, 0, 3, 1, 4)
        scale = owner[module].scale_mul_1H11.double().exp().clamp(max=100)
        unit = [part / part.norm(dim=-1, keepdim=True) for part in (q, k)]
        scores = (unit[0] * scale) @ unit[1].transpose(-1, -2)
        caught.append(scores.masked_fill(level[:, None] < level[None, :], -torch.inf).softmax(-1))

    def _bias(module: torch.nn.Module) -> torch.Tensor:
        at = owner[module]
        return torch.cat([at.q_bias, torch.zeros_like(at.q_bias), at.v_bias]).double()

    owner = {block.attn.mat_qkv: block.attn for block in net.blocks}
    for block in net.blocks:
        # the block's own bias is not in the projection, so it is added here
        block.attn.forward = _watched(block.attn, catch)
    try:
        with torch.no_grad():
            net(torch.tensor([1, 2]), inputs)
    finally:
        for block in net.blocks:
            del block.attn.forward
    return caught


def _watched(module: torch.nn.Module, catch: object) -> object:
    inner = type(module).forward

    def forward(x: torch.Tensor, **more: object) -> torch.Tensor:
        catch(module.mat_qkv, (x,), x @ module.mat_qkv.weight.T)  # type: ignore[operator]
        return inner(module, x, **more)

    return forward


def test_the_matrix_is_its_slow_twin() -> None:
    report = CrossScaleAttention(by="layer").look(scene())
    heats = [panel for panel in report.panels if isinstance(panel, Heat)]
    by_hand = weights_by_hand()
    assert len(heats) == len(by_hand)
    starts = np.cumsum([0, *COUNTS])
    for heat, weights in zip(heats, by_hand, strict=True):
        for k in range(6):
            rows = weights[:, :, starts[k] : starts[k + 1]]
            for j in range(6):
                wanted = rows[..., starts[j] : starts[j + 1]].sum(-1).mean().item()
                assert heat.values[k, j] == pytest.approx(wanted, abs=1e-4)


def test_rows_sum_to_one_and_nobody_looks_ahead() -> None:
    report = CrossScaleAttention().look(scene(guidance=1.5))
    assert report.problems() == []
    heat = next(panel for panel in report.panels if isinstance(panel, Heat))
    assert heat.values.sum(1) == pytest.approx(np.ones(6), abs=1e-5)
    assert np.triu(heat.values, 1).max() == 0
    assert heat.values[0, 0] == pytest.approx(1)
    table = next(panel for panel in report.panels if isinstance(panel, Table))
    assert len(table.rows) == 21


def test_one_token_looks_where_its_row_of_weights_says() -> None:
    report = CrossScaleAttention(at=(15, 2)).look(scene())
    films = [panel for panel in report.panels if isinstance(panel, Film)]
    mean = torch.stack([weights.mean(1) for weights in weights_by_hand()]).mean(0)  # [B, L, L]
    row = mean[:, 66 + 1 * 8 + 7]  # the last scale's token in row 1, column 7
    for film, wanted in zip(films, row, strict=True):
        assert film.frames.shape == (6, 8, 8)
        assert film.frames[5].flatten() == pytest.approx(wanted[66:].numpy(), abs=1e-4)
        assert film.frames[1, ::4, ::4].flatten() == pytest.approx(wanted[1:5].numpy(), abs=1e-4)
        assert film.frames[0].flatten() == pytest.approx(wanted[:1].expand(64).numpy(), abs=1e-4)


def test_image_by_image_it_says_the_same() -> None:
    numbers = [CrossScaleAttention(at=(3, 3)).look(scene(alone=alone)) for alone in (False, True)]
    assert numbers[1].numbers["own_scale"] == pytest.approx(numbers[0].numbers["own_scale"], abs=1e-4)
    films = [[panel.frames for panel in report.panels if isinstance(panel, Film)] for report in numbers]
    assert np.abs(np.stack(films[0]) - np.stack(films[1])).max() < 1e-4


def test_a_pixel_outside_is_refused() -> None:
    with pytest.raises(AskError, match="16x16"):
        CrossScaleAttention(at=(0, 16)).look(scene())
