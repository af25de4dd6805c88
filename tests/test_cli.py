import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.blocks.test_pictures import bomb
from tests.folders import tiny_folder
from workbench import cli
from workbench.blocks.pictures import read_meta

FAST = ["--device", "cpu", "--sampler", "diffuse steps=2"]
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run a command line in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    tiny_folder()  # making it prints
    capsys.readouterr()

    def call(*words: str) -> tuple[int, str, str]:
        code = cli.main(list(words))
        out, err = capsys.readouterr()
        return code, out, err

    return call


def drawing(*words: str) -> list[str]:
    return ["sample", *words, "--model", tiny_folder(), *FAST]


def test_sample_draws_into_a_new_folder_and_says_where(call: Call) -> None:
    code, out, err = call(*drawing("a cat", "--count", "2", "--seed", "3", "--with", "freeu", "--with", "cads"))
    assert (code, err) == (0, "")
    paths = [Path(line) for line in out.splitlines()]
    assert [path.name for path in paths] == ["0000.png", "0001.png"]
    assert paths[0].parent.parent == Path("outputs")
    meta = read_meta(paths[1])
    assert meta is not None
    assert meta["plan"]["ask"]["seeds"] == [4]
    assert [edit["method"] for edit in meta["plan"]["edits"]] == ["freeu", "cads"]


def test_sample_json_is_one_object_and_nothing_else(call: Call) -> None:
    code, out, err = call(*drawing("a cat", "--out", "r", "--json"))
    data = json.loads(out)
    assert (code, err, data["status"], data["folder"]) == (0, "", "done", "r")
    assert Path(data["pictures"][0]["file"]).is_file()
    assert {"seed", "prompt", "pixels"} <= set(data["pictures"][0])


def test_replay_gives_the_same_pixels(call: Call) -> None:
    call(*drawing("a cat", "the dog", "--out", "r"))
    assert call("replay", "r") == (0, "2 pictures, the same pixels\n", "")
    report = json.loads(Path("r/report.json").read_text())
    report["pictures"][0]["pixels"] = "0"
    Path("r/report.json").write_text(json.dumps(report))
    code, out, _ = call("replay", "r", "--json")
    assert (code, json.loads(out)["differing"]) == (1, ["0000.png"])


def test_run_takes_a_plan_a_run_folder_or_a_picture(call: Call) -> None:
    call(*drawing("a cat", "--out", "r"))
    first = np.asarray(Image.open("r/0000.png"))
    for number, source in enumerate(("r/plan.json", "r", "r/0000.png")):
        assert call("run", source, "--out", f"again{number}")[0] == 0
        assert np.array_equal(np.asarray(Image.open(f"again{number}/0000.png")), first)


def test_look_writes_panels_and_numbers(call: Call) -> None:
    code, out, _ = call("look", "denoise-film", "--prompt", "a cat", "--model", tiny_folder(), *FAST, "--out", "l")
    assert code == 0
    assert "denoise-film: 2 panels" in out
    assert Path("l/panels.npz").is_file()
    assert Path("l/denoise-film.0.png").is_file()


def test_words_after_options_still_count(call: Call) -> None:
    words = ["sample", "a", "--model", tiny_folder(), *FAST, "b", "--out", "r", "--json"]
    assert [entry["prompt"] for entry in json.loads(call(*words)[1])["pictures"]] == ["a", "b"]


def test_score_reads_prompts_and_seeds_from_the_pictures(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.runs import commands

    seen: dict[str, Any] = {}

    def score(metric: Any, images: Any, ask: Any, bundle: Any) -> Any:
        seen.update(shape=tuple(images.shape), prompts=ask.prompts, seeds=ask.seeds)
        return type("R", (), {"numbers": {"value": 0.5}})()

    monkeypatch.setattr(commands, "score_images", score)
    call(*drawing("a cat", "the dog", "--seed", "8", "--out", "r"))
    Image.new("RGB", (3, 3)).save("r/other.png")
    code, out, _ = call("score", "diversity", "--images", "r", "--model", tiny_folder(), "--json")
    assert (code, json.loads(out)["skipped"]) == (0, 1)
    assert seen == {"shape": (2, 3, 16, 16), "prompts": ("a cat", "the dog"), "seeds": (8, 9)}


def test_list_card_models_and_about_answer(call: Call, tmp_path: Path) -> None:
    assert "freeu" in call("list")[1]
    assert {entry["topic"] for entry in json.loads(call("list", "--topic", "fewstep", "--json")[1])["methods"]} == {
        "fewstep"}  # fmt: skip
    assert call("card", "freeu")[1].startswith("# FreeU")
    folder = Path(tiny_folder())
    assert "tiny" in call("models", "--models", str(folder.parent))[1]
    data = json.loads(call("about", str(folder), "--json")[1])
    assert (data["family"], data["shapes"]["image"]) == ("unet", [3, 16, 16])
    assert call("about", str(folder))[1].startswith("tiny (unet), ")


def test_sweep_runs_a_grid(call: Call) -> None:
    plan = {"model": tiny_folder(), "ask": {"prompts": ["a"]}, "sampler": {"method": "diffuse"}}
    Path("g.json").write_text(json.dumps({"plan": plan, "axes": {"sampler.steps": [1, 2]}}))
    code, out, _ = call("sweep", "g.json", "--json")
    assert (code, [cell["status"] for cell in json.loads(out)["cells"]]) == (0, ["done", "done"])


def test_train_names_its_recipes_and_refuses_others(call: Call) -> None:
    assert "unet" in call("train")[1].split()
    code, _, err = call("train", "unett")
    assert (code, err.count("\n")) == (2, 1)
    assert "Did you mean 'unet'" in err


def test_convert_turns_a_plain_state_dict_into_safetensors(call: Call) -> None:
    import torch

    torch.save({"state_dict": {"a": torch.ones(2)}}, "w.ckpt")
    code, out, _ = call("convert", "w.ckpt", "--out", "made")
    assert (code, out) == (0, "made/w.safetensors\n")


def wrong(*words: str) -> tuple[str, ...]:
    return words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (wrong("sample"), "There is no prompt"),
        (wrong("sample", "x" * 10_000), "10,000 characters"),
        (wrong("sample", "a", "--with", "freu"), "Close: 'freeu'"),
        (wrong("sample", "a", "--with", "freeu b1=nan"), "b1 is 'nan'"),
        (wrong("sample", "a", "--sampler", "diffuse steps=99999"), "steps is '99999'"),
        (wrong("sample", "a", "--size", "17x16"), "multiples of 2"),
        (wrong("sample", "a", "--mask", "m.png"), "no file m.png"),
        (wrong("sample", "a", "--image", "bomb.png"), "144 megapixels"),
        (wrong("sample", "a", "--image", "one.png", "--mask", "two.png"), "mask"),
        (wrong("sample", "a", "--model", "none"), "no model 'none'"),
        (wrong("sample", "a", "--device", "abacus"), "abacus"),
        (wrong("sample", "a", "--out", "one.png"), "is a file"),
        (wrong("sample", "a", "--frob"), "'--frob'"),
        (wrong("look", "denoise-film"), "--prompt"),
        (wrong("score", "diversity", "--images", "."), "no picture with our metadata"),
        (wrong("score", "freeu", "--images", "."), "freeu is an edit, not a metric"),
        (wrong("card", "freu"), "Close: 'freeu'"),
        (wrong("run", "none.json"), "no file none.json"),
        (wrong("run", "one.png"), "no settings of ours"),
        (wrong("run", "text.json"), "not JSON"),
        (wrong("replay", "."), "not a run"),
        (wrong("sweep", "text.json"), "not a sweep"),
        (wrong("bench", "--topic", "genrate"), "Did you mean 'generate'"),
        (wrong("export", "--with", "freeu", "--out", "e"), "freeu acts while drawing"),
        (wrong("convert", "one.png", "--out", "e"), "one.png"),
        (wrong("frobnicate"), "'frobnicate'"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value)[:40],
)
def test_a_mistake_is_one_line_on_stderr_and_exit_code_2(call: Call, words: tuple[str, ...], message: str) -> None:
    Image.new("RGB", (16, 16)).save("one.png")
    Image.new("L", (8, 8)).save("two.png")
    Path("bomb.png").write_bytes(bomb())
    Path("text.json").write_text("{")
    given = [*words, *([] if "--model" in words or words[0] != "sample" else ["--model", tiny_folder()])]
    code, out, err = call(*given)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_mistakes_are_json_for_those_who_asked_for_it(call: Call) -> None:
    code, out, err = call("sample", "--model", tiny_folder(), "--json")
    assert code == 2
    assert "no prompt" in json.loads(out)["error"]
    assert err.count("\n") == 1


def test_debug_shows_where(call: Call) -> None:
    assert "Traceback" in call("card", "freu", "--debug")[2]


def test_what_nobody_expected_is_one_line_and_exit_code_1(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.runs import listing

    monkeypatch.setattr(listing, "catalog", lambda *_: 1 / 0)
    code, out, err = call("list")
    assert (code, out) == (1, "")
    assert err == "workbench: ZeroDivisionError: division by zero (--debug shows where)\n"


def test_a_disk_that_fills_is_one_line_and_the_run_is_marked(call: Call) -> None:
    resource = pytest.importorskip("resource")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, old[1]))
    try:
        code, out, err = call(*drawing("a cat", "--size", "96x96", "--out", "r"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "Make room" in err
    assert json.loads(Path("r/report.json").read_text())["status"] == "failed"
    assert not list(Path("r").glob("*.png"))


def test_ctrl_c_keeps_what_was_finished(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.runs import commands

    def interrupted(args: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "sample", interrupted)
    assert call("sample", "a")[::2] == (1, "workbench: Stopped. What was finished is kept.\n")


def test_the_app_is_started_by_name(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    module = type(sys)("apps.app")
    module.main = lambda **given: seen.update(given)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "apps.app", module)
    assert call("app", "--port", "7999")[0] == 0
    assert seen == {"host": "127.0.0.1", "port": 7999, "models": None}


def test_bare_help_imports_no_torch() -> None:
    code = "import sys, workbench.cli; workbench.cli.main(['--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "sample" in done.stdout


def test_list_imports_neither_model_libraries_nor_faces() -> None:
    code = (
        "import sys, workbench.cli; workbench.cli.main(['list']); "
        "sys.exit(str([n for n in ('diffusers', 'transformers', 'gradio', 'plotly') if n in sys.modules] or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) in ((0, ""), (1, "\n"))


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "workbench", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()[0]) == (0, "workbench")
