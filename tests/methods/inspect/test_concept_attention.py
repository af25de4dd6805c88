"""Concept attention: the paper's extra stream written a second time, maps that sum to one, the picture untouched."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.joint import Glance, joint_bundle
from tests.tiny import tiny_sd
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle
from workbench.core.errors import AskError, PatchError, UnsupportedFamily
from workbench.core.patch import Patch, fingerprint
from workbench.core.report import Film
from workbench.core.scene import Scene
from workbench.methods.generate.diffuse import Diffuse
from workbench.methods.inspect.concept_attention import ConceptAttention, concept, nearest

ASK = Ask(prompts=["a cat and the red dog", "the dog"], seeds=[1, 2])
WORDS = ("cat", "flat", "the red dog")
each = pytest.mark.parametrize("name", ["sd3", "flux"])


def scene(bundle: Bundle, edits: tuple[Any, ...] = ()) -> Scene:
    return Scene(bundle, Glance(), edits, ASK)


def films(lens: ConceptAttention, bundle: Bundle) -> list[Film]:
    report = lens.look(scene(bundle))
    assert report.problems() == []
    return [panel for panel in report.panels if isinstance(panel, Film)]


def heads(values: Tensor) -> Tensor:
    return values.unflatten(-1, (2, -1)).transpose(1, 2)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v


def stream_by_hand(bundle: Bundle, x: Tensor, t: Tensor, cond: Any, concepts: Tensor) -> list[Tensor]:
    """SD3's concept stream as the paper has it: a third residual stream beside an untouched forward, in float64."""
    model = bundle.parts["transformer"].double()
    temb = model.time_text_embed(t, cond.text.pooled.double())
    picture, text = model.pos_embed(x.double()), model.context_embedder(cond.text.states.double())
    extra = model.context_embedder(concepts.double().transpose(0, 1).expand(len(x), -1, -1))
    maps = []
    for block in model.transformer_blocks:
        attn, only = block.attn, block.context_pre_only

        def enter(states: Tensor, block: Any = block, only: bool = only) -> tuple[Tensor, ...]:
            return (block.norm1_context(states, temb),) if only else block.norm1_context(states, emb=temb)

        normed = enter(extra)
        image = block.norm1(picture, emb=temb)[0]
        q, k, v = (heads(p(normed[0])) for p in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj))
        q, k = attn.norm_added_q(q), attn.norm_added_k(k)
        xq, xk, xv = (heads(p(image)) for p in (attn.to_q, attn.to_k, attn.to_v))
        xq, xk = attn.norm_q(xq), attn.norm_k(xk)
        _, tk, tv = (heads(p(enter(text)[0])) for p in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj))
        tk = attn.norm_added_k(tk)
        mine = attention(q, torch.cat([k, xk], 2), torch.cat([v, xv], 2))
        theirs = attention(xq, torch.cat([xk, tk], 2), torch.cat([xv, tv], 2))
        flat, seen = (o.transpose(1, 2).flatten(2) for o in (mine, theirs))
        maps.append((seen @ flat.mT).softmax(-1))
        if not only:
            _, gate, shift, scale, gate_mlp = normed
            extra = extra + gate[:, None] * attn.to_add_out(flat)
            moved = block.norm2_context(extra) * (1 + scale[:, None]) + shift[:, None]
            extra = extra + gate_mlp[:, None] * block.ff_context(moved)
        text, picture = block(picture, text, temb)
    model.float()
    return maps


@torch.no_grad()
def test_it_equals_the_extra_stream_written_slowly() -> None:
    bundle = joint_bundle("sd3")
    calls: list[tuple[Tensor, Tensor, Any]] = []
    with Patch(bundle) as patch:
        patch.wrap("predict", lambda inner: lambda x, t, cond: (calls.append((x, t, cond)), inner(x, t, cond))[1])
        scene(bundle).run()
    concepts = torch.cat([concept(bundle, word) for word in WORDS])
    slow = torch.stack([torch.stack(stream_by_hand(bundle, *call, concepts)[2:]).mean(0) for call in calls]).mean(0)
    fast = films(ConceptAttention(words=WORDS, steps=2, layers=(2, 3)), bundle)
    for row, film in zip(slow, fast, strict=True):
        assert np.abs(film.frames - row.T.reshape(3, 4, 4).numpy()).max() < 1e-5  # float32 against float64


@each
def test_maps_share_out_each_place_and_the_picture_is_untouched(name: str) -> None:
    bundle = joint_bundle(name)
    plain = scene(bundle).run()
    before = fingerprint(bundle)
    found = films(ConceptAttention(words=WORDS), bundle)
    assert fingerprint(bundle) == before
    for film, image in zip(found, plain, strict=True):
        assert film.labels == WORDS
        assert film.frames.shape == (3, 4, 4)
        assert np.allclose(film.frames.sum(0), 1, atol=1e-5)
        assert film.over is not None
        assert np.array_equal(film.over, image.permute(1, 2, 0).numpy())


@each
def test_picture_and_text_see_nothing_of_the_concepts(name: str) -> None:
    """In the second call, too: its prediction equals the first one's, so the maps are of the picture as it is."""
    bundle = joint_bundle(name)
    answers: list[Tensor] = []

    def spy(inner: Any) -> Any:
        def predict(*args: Any) -> Tensor:
            answers.append(inner(*args))
            return answers[-1]

        return predict

    with Patch(bundle) as patch:
        if name == "flux":  # its last block has one stream, in which nothing is recorded any more: look before it
            model = bundle.parts["transformer"]
            patch.put(model, "single_transformer_blocks", torch.nn.ModuleList())
        patch.wrap("predict", spy)
        ConceptAttention(words=WORDS, steps=2).look(scene(bundle))
    assert len(answers) == 4
    for plain, beside in (answers[:2], answers[2:]):
        torch.testing.assert_close(plain, beside, atol=1e-5, rtol=1e-5)


def test_equal_concepts_share_evenly_and_the_nearer_one_gets_more() -> None:
    places = torch.tensor([[[[1.0, 0.0]], [[2.0, 0.0]]]])  # one place, two heads
    concepts = torch.tensor([[[[1.0, 0.0], [0.0, 5.0]], [[1.0, 0.0], [0.0, 5.0]]]])
    assert torch.allclose(nearest(places, concepts), torch.tensor([[[3.0, 0.0]]]).softmax(-1))
    assert torch.allclose(nearest(places, concepts[:, :, :1].expand(-1, -1, 2, -1)), torch.tensor(0.5))


def test_the_order_of_batch_mates_does_not_matter() -> None:
    bundle = joint_bundle("sd3")
    both = films(ConceptAttention(words=WORDS), bundle)
    alone = ConceptAttention(words=WORDS).look(Scene(bundle, Glance(), (), ASK.row(1))).panels[0]
    assert np.allclose(both[1].frames, alone.frames, atol=1e-5)  # type: ignore[union-attr]


def test_bad_requests_are_refused_in_a_line() -> None:
    bundle = joint_bundle("sd3")
    with pytest.raises(AskError, match=r"layers is \(0, 9\); there are layers 0 to 3"):
        ConceptAttention(layers=(0, 9)).look(scene(bundle))
    with pytest.raises(AskError, match="concept-attention: words"):
        ConceptAttention(words=("cat",))
    with pytest.raises(AskError, match="The concept '' has no tokens"):
        ConceptAttention(words=("cat", "")).look(scene(bundle))
    with pytest.raises(UnsupportedFamily, match="concept-attention works on mmdit models"):
        ConceptAttention().check(tiny_sd())
    with pytest.raises(AskError, match="no joint attention over picture and text"):
        ConceptAttention().look(Scene(tiny_sd(), Diffuse(steps=1), (), ASK))


def test_a_run_that_skips_its_attention_is_refused() -> None:
    bundle = joint_bundle("sd3")
    with Patch(bundle) as patch:
        patch.wrap("predict", lambda inner: lambda x, t, cond: x)
        with pytest.raises(PatchError, match="No joint attention was called"):
            ConceptAttention().look(scene(bundle))
