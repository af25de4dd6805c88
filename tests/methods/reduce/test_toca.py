"""Token-wise caching: schedules by hand, a twin of the whole transformer in float64, caches that keep to their run."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.tiny import tiny_flux, tiny_pixart, tiny_sd, tiny_sd3
from workbench.blocks.denoise import Course, draw
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle, Condition
from workbench.core.errors import AskError, MissingPart, UnsupportedFamily
from workbench.core.patch import Patch
from workbench.core.scene import using
from workbench.core.tape import ignore
from workbench.methods.reduce.cfg_cutoff import CfgCutoff
from workbench.methods.reduce.toca import ToCa, favoured
from workbench.methods.reduce.tome import Tome

ASK = Ask(prompts=["the red cat", "a dog"], seeds=[3, 4])
SIZE = (24, 16)  # tokens: 4 x 6
each = pytest.mark.parametrize("make", [tiny_pixart, tiny_sd3, tiny_flux])
Call = tuple[Tensor, Tensor, Condition, Tensor]


def course(bundle: Bundle, steps: int = 4, guidance: float = 3.0) -> Course:
    return Course("dpm++" if bundle.family == "dit" else "euler", steps, guidance, true_guidance=guidance)


def calls(bundle: Bundle, *edits: Any, steps: int = 4, ask: Ask = ASK, guidance: float = 3.0) -> list[Call]:
    """What the network was asked in a run, and what it answered."""
    seen: list[Call] = []

    def spy(inner: Any) -> Any:
        def predict(x: Tensor, t: Tensor, cond: Condition) -> Tensor:
            seen.append((x, t, cond, inner(x, t, cond)))
            return seen[-1][-1]

        return predict

    with using(bundle, *edits, record=lambda patch: patch.wrap("predict", spy)) as edited:
        draw(edited, ask.but(size=SIZE), ignore, course(bundle, steps, guidance))
    return seen


def test_full_steps_come_sooner_towards_the_end() -> None:
    assert ToCa(interval=3).full(20) == [0, 3, 6, 9, 12, 15, 18]  # 7 of 20
    assert ToCa(interval=1).full(7) == list(range(7))
    assert ToCa(interval=5).full(20)[:3] == [0, 6, 11]  # 5 / 0.92 rounds to 5, but 5 / 0.9 to 6


def test_shares_fall_with_steps_and_layers() -> None:
    method = ToCa(ratio=0.3)
    assert method.share(0.0, 0.0, "mlp") == 1.0  # 0.3 x 1.9 x 1.6 x 1.6 = 1.46
    assert method.share(0.5, 0.5, "mlp") == pytest.approx(0.3 * 1.0 * 1.0 * 1.6)
    assert method.share(0.5, 1.0, "cross-attention") == pytest.approx(0.3 * 1.0 * 0.4 * 0.6)
    assert ToCa(ratio=0).share(0.0, 0.0, "mlp") == 0.0


def test_each_tile_favours_its_greatest_also_at_the_border() -> None:
    scores = torch.tensor([[1.0, 2.0, 9.0, 3.0, 4.0, 8.0]])  # 2 x 3: a tile of 2 x 2 and a rest of 2 x 1
    assert favoured(scores, (2, 3), 2, 1.0).tolist() == [[1.0, 2.0, 18.0, 3.0, 8.0, 8.0]]
    assert torch.equal(favoured(scores, (2, 3), 2, 0.0), scores)
    assert favoured(scores, (2, 3), 8, 1.0).tolist() == [[1.0, 2.0, 18.0, 3.0, 4.0, 8.0]]


class Twin:
    """A PixArt transformer written slowly in float64, token by token where tokens are chosen."""

    def __init__(self, model: Any, method: ToCa) -> None:
        self.model, self.method = model, method
        self.kept: dict[tuple[int, str], Tensor] = {}
        self.age: dict[tuple[int, str], Tensor] = {}
        self.weight: dict[int, Tensor] = {}

    def __call__(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        model, step = self.model, cond.step
        assert step is not None
        full = step.index in self.method.full(step.total)
        h, w = x.shape[-2] // 2, x.shape[-1] // 2
        said = model.caption_projection(cond.text.states.double())
        bias = (1 - cond.text.mask.double())[:, None, None] * -10000.0
        tokens = model.pos_embed(x.double())
        time, embedded = model.adaln_single(t, {}, batch_size=len(x), hidden_dtype=torch.float64)
        for index, block in enumerate(model.transformer_blocks):
            layer = index / (len(model.transformer_blocks) - 1)
            parts = (block.scale_shift_table[None] + time.reshape(len(x), 6, -1)).chunk(6, dim=1)
            shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = parts
            if full:
                normed = block.norm1(tokens) * (1 + scale) + shift
                self.kept[index, "self"] = self.attention(block.attn1, normed, normed, None)[0]
            tokens = tokens + gate * self.kept[index, "self"]
            part = step.index / step.total
            if full:
                crossed, maps = self.attention(block.attn2, tokens, said, bias)
                mean = (maps + maps.roll(2, 0)) / 2  # rows 0, 1 without and 2, 3 with the prompt
                weight = 1 - (mean * mean.clamp_min(1e-300).log()).sum(-1)
                self.weight[index] = weight / weight.norm(dim=1, keepdim=True)
                self.renew(index, "cross", crossed)
            else:
                for row, place in self.chosen(index, "cross", (part, layer, "cross-attention"), (h, w)):
                    one = tokens[row : row + 1, place : place + 1]
                    crossed, _ = self.attention(block.attn2, one, said[row : row + 1], bias[row : row + 1])
                    self.put(index, "cross", row, place, crossed)
            tokens = tokens + self.kept[index, "cross"]
            normed = block.norm2(tokens) * (1 + scale_mlp) + shift_mlp
            if full:
                self.renew(index, "mlp", block.ff(normed))
            else:
                for row, place in self.chosen(index, "mlp", (part, layer, "mlp"), (h, w)):
                    self.put(index, "mlp", row, place, block.ff(normed[row : row + 1, place : place + 1]))
            tokens = tokens + gate_mlp * self.kept[index, "mlp"]
        shift, scale = (model.scale_shift_table[None] + embedded[:, None]).chunk(2, dim=1)
        out = model.proj_out(model.norm_out(tokens) * (1 + scale) + shift)
        grid = out.reshape(len(x), h, w, 2, 2, 8)
        return torch.einsum("nhwpqc->nchpwq", grid).reshape(len(x), 8, 2 * h, 2 * w)[:, :4]

    def attention(self, attn: Any, x: Tensor, other: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        q, k, v = (f(y).unflatten(-1, (4, -1)).transpose(1, 2) for f, y in
                   ((attn.to_q, x), (attn.to_k, other), (attn.to_v, other)))  # fmt: skip
        scores = q @ k.mT / 8**0.5
        maps = (scores if bias is None else scores + bias).softmax(-1)
        return attn.to_out[0]((maps @ v).transpose(1, 2).flatten(2)), maps.mean(1)

    def renew(self, index: int, what: str, output: Tensor) -> None:
        self.kept[index, what] = output
        self.age[index, what] = torch.zeros(output.shape[:2], dtype=torch.float64)

    def put(self, index: int, what: str, row: int, place: int, value: Tensor) -> None:
        self.kept[index, what][row, place] = value[0, 0]
        self.age[index, what][row, place] = 0

    def chosen(self, index: int, what: str, share: Any, size: tuple[int, int]) -> list[tuple[int, int]]:
        """The (row, place) to renew; everything else is a step older."""
        method = self.method
        self.age[index, what] += 1
        self.kept[index, what] = self.kept[index, what].clone()
        score = self.weight[index] + method.stale * self.age[index, what] / method.interval
        found: list[tuple[int, int]] = []
        for row in range(len(score)):
            values = score[row].tolist()
            for top in range(0, size[0], method.tile):
                for left in range(0, size[1], method.tile):
                    rows = range(top, min(top + method.tile, size[0]))
                    columns = range(left, min(left + method.tile, size[1]))
                    best = max((y * size[1] + x for y in rows for x in columns), key=score[row].tolist().__getitem__)
                    values[best] = score[row, best].item() * (1 + method.bonus)
            order = sorted(range(len(values)), key=lambda place, values=values: -values[place])
            found += [(row, place) for place in order[: int(method.share(*share) * len(values))]]
        return found


@torch.no_grad()
@pytest.mark.parametrize("settings", [{"interval": 3}, {"interval": 4, "ratio": 0.6, "tile": 2, "stale": 2.0}])
def test_it_equals_the_twin_in_float64(settings: dict[str, Any]) -> None:
    bundle = tiny_pixart.__wrapped__()  # a fresh one, whose numbers become wide
    fast = calls(bundle, ToCa(**settings), steps=6)
    twin = Twin(bundle.parts["transformer"].double(), ToCa(**settings))
    for x, t, cond, answer in fast:
        slow = twin(x, t, cond)
        assert (answer - slow).abs().max() < 1e-4 * slow.std()  # float32 against float64


@each
def test_full_steps_are_plain_and_others_are_near(make: Any) -> None:
    """Every full step answers as the plain network would to the same question; the others reuse, so they differ."""
    bundle = make()
    method = ToCa(interval=2, ratio=0.3)
    for x, t, cond, answer in calls(bundle, method):
        with torch.no_grad():
            plain = bundle.predict(x, t, cond)
        step = cond.step
        assert step is not None
        if step.index in method.full(step.total):
            assert torch.equal(answer, plain)
        else:
            assert 1e-6 < (answer - plain).abs().max() < 3 * plain.std()


@each
def test_caches_start_empty_and_rows_are_their_own(make: Any) -> None:
    bundle, edit = make(), ToCa(interval=2)
    with using(bundle, edit) as edited:
        setting = course(bundle)
        first, again = (draw(edited, ASK, ignore, setting) for _ in range(2))
        assert torch.equal(first, again)
        alone = draw(edited, ASK.row(1), ignore, setting)
    assert (first[1:].int() - alone.int()).abs().max() <= 1


@torch.no_grad()
def test_outside_of_a_run_nothing_is_kept() -> None:
    bundle = tiny_pixart()
    x, t, cond, _ = calls(bundle, steps=2)[0]
    alone = Condition(cond.text, cond.seeds, cond.roles)
    plain = [bundle.predict(state, t, alone) for state in (x + 1, x)]
    with using(bundle, ToCa(interval=4, ratio=0.0)) as edited:
        edited_too = [edited.predict(state, t, alone) for state in (x + 1, x)]
    assert all(map(torch.equal, plain, edited_too))


@pytest.mark.parametrize("order", [0, 1])
def test_it_stacks_with_a_guidance_cut_off(order: int) -> None:
    """From half way on the rows without a prompt are gone; the others go on with what was kept for them."""
    edits = [ToCa(interval=3), CfgCutoff(stop=0.5)]
    found = calls(tiny_pixart(), *(edits if order else edits[::-1]), steps=6)
    assert all(torch.isfinite(answer).all() for *_, answer in found)
    assert len(found) == 6


@pytest.mark.parametrize("other", [ToCa(interval=2), Tome(parts=("mlp",))], ids=["itself", "merged mlps"])
def test_where_another_edit_hands_on_fewer_tokens_they_are_all_computed(other: Tome | ToCa) -> None:
    for edits in ((ToCa(interval=2), other), (other, ToCa(interval=2))):
        assert all(torch.isfinite(made).all() for *_, made in calls(tiny_pixart(), *edits))


def test_a_run_of_one_step_is_refused() -> None:
    with pytest.raises(AskError, match="toca reuses what earlier steps computed; this run has 1 step"):
        calls(tiny_pixart(), ToCa(), steps=1)


def test_a_unet_is_refused() -> None:
    with pytest.raises(UnsupportedFamily, match="toca works on dit and mmdit"), using(tiny_sd(), ToCa()):
        pass
    with (
        pytest.raises(MissingPart, match=r"tiny-sd has none\. For UNets there is deep-cache"),
        Patch(tiny_sd()) as patch,
    ):
        ToCa().patch(tiny_sd(), ToCa().fit(tiny_sd(), ignore), patch)


def test_a_seeded_run_stays_what_it_was() -> None:
    """A golden number on the frozen tiny model: the spread of the last answer."""
    answer = calls(tiny_pixart(), ToCa(interval=3), steps=5)[-1][-1]
    assert F.mse_loss(answer, calls(tiny_pixart(), steps=5)[-1][-1]).sqrt() == pytest.approx(GOLDEN, rel=1e-3)


GOLDEN = 0.014387
