from workbench.runs.answer import Answer


def test_an_answer_is_a_success_unless_it_says_otherwise() -> None:
    assert Answer({"a": 1}, "text").code == 0
