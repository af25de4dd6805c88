"""The load report: counts, energies and refusals, sound as panels."""

from workbench.blocks.adapter_report import FATES, AdapterRefused, Line, LoadReport, block
from workbench.core.errors import CheckpointMismatch
from workbench.core.report import Note, Report, Table

LINES = (
    Line("a", "matched", "unet:down_blocks.0.x.weight", "lora", 4, 3.0),
    Line("b", "renamed", "unet:down_blocks.0.y.weight", "lora", 8, 4.0),
    Line("c", "matched", "unet:mid_block.z.weight", "full", 0, 2.0),
    Line("d`|", "unused", why="the model has no such place"),
)


def report(*lines: Line) -> LoadReport:
    return LoadReport("some", "model", lines, ("It was trained on other weights.",))


def test_counts_and_energies_add_up() -> None:
    found = report(*LINES)
    assert [found.count(fate) for fate in FATES] == [2, 1, 1, 0]
    assert found.found == 0.75
    assert found.formats == ("lora", "full")
    assert found.energies == {"unet down_blocks.0": 5.0, "unet mid_block": 2.0}


def test_a_file_is_refused_for_one_wrong_shape_or_a_tenth_unused() -> None:
    assert "1 unused" in report(*LINES).refusal
    assert report(*LINES[:3]).refusal == ""
    assert report(*LINES[:1] * 19, LINES[3]).refusal == ""
    wrong = Line("e", "wrong shape", "unet:x.weight", why="it changes 3x4")
    assert "e, it changes 3x4" in report(*LINES[:1] * 99, wrong).refusal
    error = AdapterRefused(report(wrong))
    assert isinstance(error, CheckpointMismatch)
    assert error.report.count("wrong shape") == 1


def test_the_panels_are_sound_and_say_everything() -> None:
    panels = report(*LINES).panels()
    assert Report(panels).problems() == []
    tables = {panel.title: panel for panel in panels if isinstance(panel, Table)}
    assert tables["What was found"].rows[0][:3] == ("some", "lora, full", 8)
    assert tables["How much is changed where"].rows == (("unet down_blocks.0", 5.0), ("unet mid_block", 2.0))
    assert tables["Places without use"].rows == (("d`|", "unused", "the model has no such place"),)
    notes = [panel for panel in panels if isinstance(panel, Note)]
    assert [note.title for note in notes] == ["Warning", "Refused"]
    assert "d\\`\\|" in notes[1].text


def test_blocks_are_named_by_their_beginning() -> None:
    names = {
        "unet:up_blocks.1.attentions.0.proj_in.weight": "unet up_blocks.1", "unet:conv_in.weight": "unet conv_in",
        "text:text_model.encoder.layers.3.mlp.fc1.weight": "text layer 3", "text:tokens": "text",
        "transformer:transformer_blocks.11.ff.weight": "transformer transformer_blocks.11"}  # fmt: skip
    assert {key: block(key) for key in names} == names


def test_a_file_of_nothing_is_refused() -> None:
    empty = LoadReport("some", "model")
    assert empty.found == 0.0
