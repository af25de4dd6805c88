"""A whole request as JSON."""

import json

import pytest

from tests.toys import Brightness, Fade, Noise, Push, Watch, listed
from workbench.core.ask import Ask
from workbench.core.errors import AskError
from workbench.core.plan import Plan

ASK = Ask(prompts=["a cat", "a dog"], seeds=[3, 4])


def test_a_plan_survives_json_with_its_methods() -> None:
    with listed(Fade, Push, Noise, Watch, Brightness):
        plan = Plan(
            sampler=Noise(), edits=(Fade(strength=0.5), Push()), lenses=(Watch(),), metrics=(Brightness(),), ask=ASK
        )
        data = json.loads(json.dumps(plan.to_json()))
        assert data["edits"][0] == {"method": "toy-fade", "concepts": ["cat"], "strength": 0.5}
        assert Plan.from_json(json.dumps(data)) == plan


def test_the_order_of_edits_is_kept() -> None:
    with listed(Fade, Push):
        plan = Plan(edits=(Push(), Fade()), ask=ASK)
        assert [type(edit) for edit in Plan.from_json(json.dumps(plan.to_json())).edits] == [Push, Fade]
        assert plan != plan.but(edits=(Fade(), Push()))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "The plan is not JSON"),
        (b"\xff\xfe", "The plan is not JSON"),
        ("[" * 100_000, "The plan is not JSON"),
        ("[]", "The plan is not a JSON object"),
        ("{}", "The plan cannot be read: ask"),
        ('{"ask": {"prompts": []}}', "There is no prompt"),
        ('{"ask": {"prompts": ["a"]}, "batch": 0}', "The plan cannot be read: batch"),
        ('{"ask": {"prompts": ["a"]}, "colour": 1}', "The plan cannot be read: colour"),
        ('{"ask": {"prompts": ["a"]}, "edits": [{"method": "toem"}]}', "No method called 'toem'"),
        ('{"ask": {"prompts": ["a"]}, "edits": [{"strength": 1}]}', "The plan cannot be read: edits.0"),
        ('{"ask": 5}', "ask"),
    ],
)
def test_what_is_no_plan_is_refused_in_one_line(text: str | bytes, words: str) -> None:
    with pytest.raises((AskError, LookupError)) as trouble:
        Plan.from_json(text)
    assert words in str(trouble.value)
    assert "\n" not in str(trouble.value)


def test_a_sampler_is_not_an_edit() -> None:
    with listed(Noise), pytest.raises(AskError, match=r"edits\.0"):
        Plan.from_json('{"ask": {"prompts": ["a"]}, "edits": [{"method": "toy-noise"}]}')


def test_changes_are_checked() -> None:
    assert Plan(ask=ASK).but(batch=2).batch == 2
    with pytest.raises(ValueError, match="batch"):
        Plan(ask=ASK).but(batch=0)
