import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.folders import tiny_plan
from tests.tiny import tiny_sd
from tests.toys import listed
from workbench.blocks.pictures import read_meta
from workbench.core.errors import AskError, ResourceError, Stopped, UnsupportedFamily
from workbench.core.patch import fingerprint
from workbench.core.plan import Plan
from workbench.core.report import Heat, Report
from workbench.core.tape import Step
from workbench.runs.execute import batches, digest, open_bundle, replay, run
from workbench.runs.history import read_run


@pytest.fixture(scope="module")
def bundle() -> Any:
    torch.set_num_threads(1)
    return open_bundle(tiny_plan())


def test_a_run_folder_holds_plan_report_and_pictures(tmp_path: Path, bundle: Any) -> None:
    heard: list[Path] = []
    plan = tiny_plan("a cat", "the dog", "red", ask={"seeds": (4, 5, 9), "negatives": ("", "x", "")})
    done = run(plan, tmp_path / "r", bundle=bundle, saved=heard.append)
    assert done.status == "done"
    assert [path.name for path in done.pictures] == ["0000.png", "0001.png", "0002.png"]
    assert heard == list(done.pictures)
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert [(e["prompt"], e["negative"], e["seed"]) for e in report["pictures"]] == [
        ("a cat", "", 4), ("the dog", "x", 5), ("red", "", 9)]  # fmt: skip
    assert report["pictures"][1]["pixels"] == digest(done.images[1])
    assert {"versions", "threads", "device", "dtype"} <= set(report["environment"])
    assert report["model"]["digest"] == bundle.digest
    assert report["seconds"] > 0
    assert not list((tmp_path / "r").glob(".*"))


def test_a_picture_carries_the_plan_of_itself(tmp_path: Path, bundle: Any) -> None:
    done = run(tiny_plan("a cat", "the dog", edits=[{"method": "freeu"}]), tmp_path / "r", bundle=bundle)
    meta = read_meta(done.pictures[1])
    assert meta is not None
    plan = Plan(**meta["plan"])
    assert plan.ask.prompts == ("the dog",)
    assert plan.ask.seeds == (1,)
    again = run(plan, tmp_path / "again", bundle=bundle)
    # one picture alone and two at a time differ by about 2e-6 before rounding
    assert np.abs(again.images[0].astype(int) - done.images[1].astype(int)).max() <= 1


def test_replay_gives_the_same_pixels_and_threads_back(tmp_path: Path, bundle: Any) -> None:
    run(tiny_plan("a cat", "the dog", "red", edits=[{"method": "cads"}]), tmp_path / "r", bundle=bundle)
    threads = torch.get_num_threads()
    again = replay(tmp_path / "r")
    assert again.differing == ()
    assert again.folder == tmp_path / "r" / "replay"
    assert torch.get_num_threads() == threads


def test_replay_names_the_pictures_that_differ(tmp_path: Path, bundle: Any) -> None:
    run(tiny_plan("a cat", "the dog"), tmp_path / "r", bundle=bundle)
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    report["pictures"][1]["pixels"] = "0" * 64
    (tmp_path / "r" / "report.json").write_text(json.dumps(report))
    assert replay(tmp_path / "r", bundle=bundle).differing == ("0001.png",)


def test_replay_uses_the_copy_of_the_input_picture(tmp_path: Path, bundle: Any) -> None:
    source = tmp_path / "start.png"
    Image.new("RGB", (16, 16), "red").save(source)
    run(tiny_plan(ask={"image": source}), tmp_path / "r", bundle=bundle)
    Image.new("RGB", (16, 16), "blue").save(source)
    assert replay(tmp_path / "r", bundle=bundle).differing == ()


def test_a_second_run_into_a_folder_keeps_the_first(tmp_path: Path, bundle: Any) -> None:
    first = run(tiny_plan(), tmp_path / "r", bundle=bundle)
    second = run(tiny_plan(), tmp_path / "r", bundle=bundle)
    third = run(tiny_plan(), tmp_path / "r", bundle=bundle)
    assert len({first.folder, second.folder, third.folder}) == 3
    assert second.folder.parent == first.folder


def test_the_model_chooses_the_sampler_and_the_plan_remembers_it(tmp_path: Path, bundle: Any) -> None:
    seen: list[Step] = []

    def stop(step: Step) -> None:
        seen.append(step)
        raise Stopped

    done = run(tiny_plan(sampler=None), tmp_path / "r", stop, bundle)
    assert done.plan.sampler is not None
    assert done.plan.sampler.card.name == bundle.sampler
    assert (done.status, len(seen)) == ("stopped", 1)


def test_a_stopped_run_keeps_what_was_finished(tmp_path: Path, bundle: Any) -> None:
    count = 0

    def stop(step: Step) -> None:
        nonlocal count
        count += 1
        if count == 5:  # two pictures at a time take three steps
            raise Stopped

    before = fingerprint(bundle)
    done = run(tiny_plan("a", "b", "c", edits=[{"method": "freeu"}]), tmp_path / "r", stop, bundle)
    assert (done.status, len(done.pictures)) == ("stopped", 2)
    assert fingerprint(bundle) == before


def test_a_failing_run_is_marked_and_raises(tmp_path: Path, bundle: Any) -> None:
    def fail(step: Step) -> None:
        raise ZeroDivisionError("by design")

    with pytest.raises(ZeroDivisionError):
        run(tiny_plan(), tmp_path / "r", fail, bundle)
    assert (read_run(tmp_path / "r").status, read_run(tmp_path / "r").error) == (
        "failed",
        "ZeroDivisionError: by design",
    )


def test_a_disk_that_fills_marks_the_run_failed_and_lists_nothing_half_written(tmp_path: Path, bundle: Any) -> None:
    resource = pytest.importorskip("resource")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    plan = tiny_plan("a cat", "the dog", ask={"size": (96, 96)})  # about 20 kB a picture, 5 kB a report
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, old[1]))
    try:
        with pytest.raises(ResourceError, match=r"0000\.png could not be written"):
            run(plan, tmp_path / "r", bundle=bundle)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    failed = read_run(tmp_path / "r")
    assert (failed.status, failed.pictures) == ("failed", ())
    assert "could not be written" in failed.error
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["plan.json", "report.json"]


def test_memory_that_runs_out_says_what_to_do(tmp_path: Path, bundle: Any) -> None:
    def fail(step: Step) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(ResourceError, match="smaller --batch"):
        run(tiny_plan(), tmp_path / "r", fail, bundle)


def test_lenses_report_numbers_and_panels(tmp_path: Path, bundle: Any) -> None:
    plan = tiny_plan(lenses=[{"method": "denoise-film"}, {"method": "denoise-film"}])
    done = run(plan, tmp_path / "r", bundle=bundle, drawing=False)
    assert done.pictures == ()
    assert set(done.numbers) == {"denoise-film", "denoise-film#2"}
    for report in done.reports().values():
        assert report.panels
        assert report.problems() == []


def test_metrics_see_all_pictures_at_once(tmp_path: Path, bundle: Any) -> None:
    from typing import ClassVar

    from workbench.core.method import Card, Metric

    class Count(Metric):
        card: ClassVar[Card] = Card("toy-count", "Count", "none", ("any",), "instant", "toys")

        def score(self, images: Any, ask: Any, bundle: Any) -> Report:
            return Report((Heat(np.ones((2, 2))),), {"value": float(len(images)), "prompts": float(len(ask))})

    with listed(Count):
        plan = tiny_plan("a", "b", "c", metrics=[{"method": "toy-count"}])
        done = run(plan, tmp_path / "r", bundle=bundle)
        assert done.numbers["toy-count"] == {"value": 3.0, "prompts": 3.0}


def test_batches_cover_the_request_in_order() -> None:
    plan = tiny_plan("a", "b", "c", ask={"seeds": (3, 1, 2)})
    assert [(at, part.prompts, part.seeds) for at, part in batches(plan)] == [
        (0, ("a", "b"), (3, 1)), (2, ("c",), (2,))]  # fmt: skip


def test_what_cannot_be_drawn_is_refused_before_a_folder_is_made(tmp_path: Path) -> None:
    from typing import ClassVar

    from workbench.core.method import Card, Edit

    class ForVar(Edit):
        card: ClassVar[Card] = Card("toy-var", "For var", "none", ("var",), "instant", "toys")

    with listed(ForVar), pytest.raises(UnsupportedFamily):
        run(tiny_plan(edits=[{"method": "toy-var"}]), tmp_path / "r", bundle=tiny_sd())
    (tmp_path / "file").write_text("")
    with pytest.raises(AskError, match="is a file"):
        run(tiny_plan(), tmp_path / "file", bundle=tiny_sd())
    assert not (tmp_path / "r").exists()


def test_replaying_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(AskError, match="is not a run"):
        replay(tmp_path)
