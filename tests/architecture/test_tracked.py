"""What is under version control: how much, and which words stay out of it."""

import json
import re
import stat

from tests.architecture.sources import ROOT, text, tracked

MIB = 2**20
#: A project speaks of itself alone: not of who or what wrote it, where it was fetched from, or whose machine it was on.
#: Spelt in pieces, so that this file passes its own test.
WORDS = (
    "cl" "aude", "anth" "ropic", "co" "pilot", "chat" "gpt", "open" "ai codex", r"(coding|ai|sub) ?-?ag" "ents?",
    "py" r"pi\.org", "python" r"hosted\.org", "npm" r"js\.(org|com)", "deb" r"\.debian\.org",
    "/opt/" "(py" "pi|wheels)", r"shared/(no" "tes|des" r"ign)", r"(?<!\w)no" r"tes/[a-z-]+\.md",
)  # fmt: skip
PLACES = "(?<![\\w.~}>-])/(work|root|home/[a-z]|Users)/"
REFUSED = re.compile(
    "|".join([*(rf"\b{word}\b" if word[0].isalpha() else word for word in WORDS), PLACES]), re.IGNORECASE
)


def test_a_checkout_can_be_copied_whole() -> None:
    sizes = {path: (ROOT / path).lstat().st_size for path in tracked()}
    models = sum(size for path, size in sizes.items() if path.parts[:2] == ("assets", "models"))
    assert sum(sizes.values()) <= 50 * MIB
    assert models <= 45_000_000
    heavy = [
        f"{path}: {size:,} bytes"
        for path, size in sizes.items()
        if size > 500_000 and path.parts[:2] not in (("assets", "models"), ("assets", "world"))
    ]
    assert not heavy


def test_texts_speak_of_the_project_alone() -> None:
    found = []
    for path in tracked():
        for number, line in enumerate(text(path).splitlines(), 1):
            if hit := REFUSED.search(line):
                found.append(f"{path}:{number}: {hit.group()}")
    assert not found, "\n".join(found)


def test_the_word_rule_bites() -> None:
    refused = ["see /{}/x".format("root"), "at /{}/main".format("work"), "https://py{}.org/simple".format("pi")]
    for line in (*refused, "sub-{}".format("agents"), "cl{}".format("aude")):
        assert REFUSED.search(line), line
    for line in ("methods/work/x", "user-agent", "./{}/".format("root"), "pip install", "clauses", "~/.cache"):
        assert not REFUSED.search(line), line


def test_texts_end_with_one_newline() -> None:
    kinds = {".md", ".toml", ".yaml", ".yml", ".py", ".txt", ".css"}
    bad = [
        str(path)
        for path in tracked()
        if path.suffix in kinds and (body := text(path)) and (not body.endswith("\n") or body.endswith("\n\n"))
    ]
    assert not bad


def test_notebooks_carry_no_outputs() -> None:
    for path in tracked():
        if path.suffix == ".ipynb":
            for cell in json.loads(text(path))["cells"]:
                assert not cell.get("outputs"), f"{path} has outputs"
                assert cell.get("execution_count") is None, f"{path} has execution counts"


def test_no_credentials_and_no_leftovers() -> None:
    leftovers = re.compile(r"(^|/)(\.env|.*\.(pem|ckpt|pt|pth|pkl|bin|log|orig|rej|swp)|__pycache__|\.DS_Store)(/|$)")
    assert not [str(path) for path in tracked() if leftovers.search(path.as_posix())]


def test_ci_script_can_be_run() -> None:
    assert (ROOT / ".ci/run").stat().st_mode & stat.S_IXUSR
