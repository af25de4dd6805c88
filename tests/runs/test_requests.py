import pytest

from workbench.cli import parser
from workbench.core.errors import AskError, UnknownMethod
from workbench.core.plan import Plan
from workbench.runs.requests import method_of, nearest, plan_of, seeds_of, size_of


def asked(*words: str) -> Plan:
    args = parser().parse_args(["sample", *words])
    return plan_of(args, args.prompts)


def test_count_repeats_each_prompt_and_seeds_count_up() -> None:
    ask = asked("a", "b", "--count", "2", "--seed", "5").ask
    assert (ask.prompts, ask.seeds) == (("a", "a", "b", "b"), (5, 6, 7, 8))


def test_negatives_follow_their_prompts() -> None:
    assert asked("a", "b", "--negative", "x", "--negative", "y", "--count", "2").ask.negatives == ("x", "x", "y", "y")
    assert asked("a", "b", "--negative", "x").ask.negatives == ("x", "x")


def test_edits_keep_their_order_and_quoting() -> None:
    edits = asked("a", "--with", "freeu b1=1.25", "--with", "cads").edits
    assert [edit.card.name for edit in edits] == ["freeu", "cads"]
    assert edits[0].b1 == 1.25  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "no prompt"),
        (("x" * 10_000,), "10,000 characters"),
        (("a", "--count", "0"), "--count is 0"),
        (("a", "--count", "1000000000"), "--count is 1000000000"),
        (("a", "--seed", "x"), "--seed is 'x'"),
        (("a", "--seed=-1"), "seed is -1"),
        (("a", "--size", "16"), "--size is '16'"),
        (("a", "--size", "16x0"), "16x0"),
        (("a", "--batch", "0"), "--batch is 0"),
        (("a", "--image", "none.png"), "no file none.png"),
        (("a", "--with", ""), "names no edit"),
        (("a", "--with", "freeu 'open"), "cannot be read"),
        (("a", "--with", "freeu b1"), "'b1' is not key=value"),
        (("a", "--with", "freeu b1=1 b1=2"), "b1 is given twice"),
        (("a", "--with", "freeu b9=1"), "no setting 'b9'"),
        (("a", "--with", "freeu b1=nan"), "b1 is 'nan'"),
        (("a", "--with", "diffuse"), "diffuse is a sampler, not an edit. Use it with --sampler"),
        (("a", "--sampler", "diffuse steps=0"), "steps is '0'"),
        (("a", "--sampler", "diffuse scheduler=eular"), "scheduler is 'eular'"),
    ],
)
def test_a_wrong_request_is_told_in_one_line(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(AskError) as caught:
        asked(*words)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_method_names_the_nearest() -> None:
    with pytest.raises(UnknownMethod, match="Close: 'freeu'"):
        method_of("freu b1=1", "edit")


def test_seeds_and_sizes_are_read() -> None:
    assert (seeds_of(None), seeds_of("7"), seeds_of("7,9")) == ((), (7,), (7, 9))
    assert (size_of(None), size_of("64X32")) == (None, (64, 32))


def test_the_nearest_name_is_offered() -> None:
    assert "Did you mean 'generate'?" in str(nearest("genrate", ["generate", "reduce"], "topic"))
    assert "Possible: none." in str(nearest("x", [], "topic"))
