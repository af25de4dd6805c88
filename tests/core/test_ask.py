"""What may be asked for, and how a wrong wish is answered."""

import json
from pathlib import Path
from typing import Any

import pytest

from workbench.core.ask import LONGEST_PROMPT, MOST_SEED, Ask
from workbench.core.errors import AskError


def test_one_prompt_with_several_seeds_is_several_images() -> None:
    ask = Ask(prompts="a cat", seeds=(4, 9, 2))
    assert ask.prompts == ("a cat",) * 3
    assert ask.seeds == (4, 9, 2)
    assert ask.negatives == ("",) * 3
    assert len(ask) == 3


def test_missing_seeds_count_up_from_nought_and_a_single_one_from_itself() -> None:
    assert Ask(prompts=["a", "b", "c"]).seeds == (0, 1, 2)
    assert Ask(prompts=["a", "b", "c"], seeds=7).seeds == (7, 8, 9)
    assert Ask(prompts=["a", "b", "c"], seeds=[7, 7, 7]).seeds == (7, 7, 7)


def test_one_negative_serves_all() -> None:
    assert Ask(prompts=["a", "b"], negatives="blurred").negatives == ("blurred",) * 2
    assert Ask(prompts=["a", "b"], negatives=["x", "y"]).negatives == ("x", "y")


def test_a_row_is_the_request_for_one_image() -> None:
    ask = Ask(prompts=["a", "b"], seeds=[3, 5], negatives=["x", ""], size=(16, 24), image="p.png", mask="m.png")
    row = ask.row(1)
    assert (row.prompts, row.seeds, row.negatives) == (("b",), (5,), ("",))
    assert (row.size, row.image, row.mask) == ((16, 24), Path("p.png"), Path("m.png"))


def test_a_request_survives_json() -> None:
    ask = Ask(prompts=["a", "b"], seeds=[3, 5], size=(16, 24), image="p.png")
    assert Ask(**json.loads(json.dumps(ask.model_dump(mode="json")))) == ask


def test_an_empty_text_is_a_prompt_and_changes_are_checked() -> None:
    assert Ask(prompts="").prompts == ("",)
    assert Ask(prompts="a").but(seeds=5).seeds == (5,)
    with pytest.raises(AskError):
        Ask(prompts="a").but(seeds=-1)


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({}, 'There is no prompt. Give at least one, for example "a cat".'),
        ({"prompts": []}, 'There is no prompt. Give at least one, for example "a cat".'),
        ({"prompts": ["a", "b"], "seeds": [1, 2, 3]}, "There are 2 prompts and 3 seeds. Give one for all, or one a"),
        ({"prompts": ["a"] * 3, "negatives": ["x", "y"]}, "There are 3 prompts and 2 negatives."),
        ({"prompts": "x" * (LONGEST_PROMPT + 1)}, "A prompt has 8,001 characters; at most 8,000 are taken"),
        ({"prompts": "a", "negatives": "x" * 10_000}, "A prompt has 10,000 characters"),
        ({"prompts": "a", "seeds": -1}, f"The seed is -1; seeds are whole numbers from 0 to {MOST_SEED}."),
        ({"prompts": "a", "seeds": MOST_SEED + 1}, "seeds are whole numbers from 0"),
        ({"prompts": "a", "seeds": ["x"]}, "seeds.0: Input should be a valid integer"),
        ({"prompts": "a", "seeds": 1.5}, "seeds"),
        ({"prompts": 5}, "prompts"),
        ({"prompts": [None]}, "prompts.0: Input should be a valid string"),
        ({"prompts": "a", "negatives": 5}, "negatives"),
        ({"prompts": "a", "size": (0, 16)}, "The size is 0x16; both sides must be at least 1 pixel."),
        ({"prompts": "a", "size": 16}, "size: Input should be a valid tuple"),
        ({"prompts": "a", "mask": "m.png"}, "There is a mask but no picture to apply it to. Give an image as well."),
        ({"prompts": "a", "colour": "red"}, "colour: Extra inputs are not permitted."),
    ],
)
def test_a_wrong_wish_is_refused_in_one_line(wish: dict[str, Any], words: str) -> None:
    with pytest.raises(AskError) as trouble:
        Ask(**wish)
    assert words in str(trouble.value)
    assert "\n" not in str(trouble.value)
