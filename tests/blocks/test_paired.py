"""Cells, prompts and pieces: what a row asks for follows from its subject and number alone, and is drawn once."""

from dataclasses import replace

import pytest
import torch

from tests.methods.measure.painter import DRAWN, Forget, painted_scene
from workbench.blocks.judging import Concept, Eye, concept
from workbench.blocks.paired import PIECE, Cell, Gallery, Piece, Subject, cells, pieces, prompts, targets
from workbench.blocks.wording import parse
from workbench.blocks.world import World
from workbench.core.ask import Ask


@pytest.fixture(scope="module")
def world() -> World:
    return World.load()


def subject(world: World, word: str) -> Subject:
    return Subject(word, concept(world, word))


def test_the_first_rows_of_more_are_the_rows_of_fewer(world: World) -> None:
    cat = subject(world, "cat face")
    assert prompts(world, cat, 40)[:7] == prompts(world, cat, 7)
    assert len(set(prompts(world, cat, 40))) > 20


def test_every_prompt_says_its_object_in_a_style_that_training_saw(world: World) -> None:
    for word in ("cat face", "dog face", "rocket"):
        for line in prompts(world, subject(world, word), 64):
            said = parse(world, line)
            assert word in said.objects[0]
            assert said.style == "" or world.seen(word, said.style)


def test_a_style_is_asked_for_on_several_objects(world: World) -> None:
    lines = prompts(world, subject(world, "ink"), 6, ["rocket", "crown"])
    assert {parse(world, line).style for line in lines} == {"ink"}
    assert {next(iter(parse(world, line).objects[0])) for line in lines} == {"rocket", "crown"}


def test_a_foreign_model_gets_plain_prompts(world: World) -> None:
    assert prompts(None, subject(world, "cat"), 2) == ["a cat", "a photo of a cat"]


def test_pieces_cover_the_rows_once_with_seeds_that_count_up(world: World) -> None:
    scene = painted_scene()
    cell = Cell("target", (subject(world, "cat"), subject(world, "dog")), 2 * PIECE + 6)
    made = pieces(scene, None, [cell])
    assert [(p.subject.word, p.start, len(p.ask)) for p in made] == [("cat", 0, 8), ("cat", 8, 3), ("dog", 0, 8),
                                                                    ("dog", 8, 3)]  # fmt: skip
    assert made[1].ask.seeds == (13, 14, 15)


def test_cells_hold_no_target_among_those_that_should_stay(world: World) -> None:
    scene = painted_scene()
    scene = replace(scene, bundle=replace(scene.bundle, world=world))
    found = {cell.name: cell for cell in cells(scene, world, [concept(world, "cat face")], (), 16, near=3)}
    assert list(found) == ["target", "synonyms", "neighbours", "others", "styles"]
    assert {s.word for s in found["synonyms"].subjects} <= {"cat", "kitten", "kitty"}
    assert len(found["neighbours"].subjects) == 3
    for name in ("neighbours", "others"):
        assert not any("cat face" in s.about.labels for s in found[name].subjects)
    assert "emojione" not in {s.word for s in found["styles"].subjects}
    of_style = {cell.name: cell for cell in cells(scene, world, [concept(world, "ink")], (), 16)}
    assert "ink" not in {s.word for s in of_style["styles"].subjects}
    assert "neighbours" not in of_style


def test_a_piece_is_drawn_once_for_all_that_ask_for_it(world: World) -> None:
    scene = painted_scene()
    eye = Eye(scene.bundle)
    gallery = Gallery(scene.bundle, scene.sampler, eye)
    piece = Piece("target", subject(world, "cat"), 0, Ask(prompts=["a cat", "a dog"], seeds=[1, 2]))
    told: list[float] = []
    first = gallery.drawn((Forget(),), [piece], lambda d: told.append(d.seconds))[0]
    again = gallery.drawn((Forget(),), [piece], lambda d: told.append(d.seconds))[0]
    assert len(DRAWN) == 2
    assert told[0] == told[1] == first.seconds
    for name, value in first.seen.tensors().items():
        assert torch.equal(value, again.seen.tensors()[name]), name
    gallery.drawn((Forget(strength=0.7),), [piece])
    assert len(DRAWN) == 4
    gallery.drawn((), [piece])
    gallery.drawn((), [replace(piece, ask=piece.ask.but(seeds=(1, 3)))])
    assert len(DRAWN) == 8


def test_targets_come_from_the_lens_the_edits_or_the_prompt(world: World) -> None:
    assert [c.word for c in targets(painted_scene(Forget()), ("dog",), world)] == ["dog"]
    assert [c.word for c in targets(painted_scene(Forget()), (), world)] == ["cat"]
    assert targets(painted_scene(prompt="a rocket"), (), world) == (Concept("rocket", frozenset({"rocket"})),)
