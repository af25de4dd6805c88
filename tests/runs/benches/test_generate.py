from tests.folders import tiny_folder
from workbench.runs.bench import Options, run_bench


def test_our_loop_is_measured_against_the_plain_pipeline() -> None:
    result = run_bench("generate", Options(model=tiny_folder(), steps=2))
    assert result["against"] == "diffusers"
    rows = {row["name"]: row for row in result["rows"]}
    assert rows["workbench"]["method"] == "diffuse"
    shares = rows["workbench, timed inside"]["numbers"]
    assert 0 < shares["decode_share"] < shares["unet_share"] < 1
    assert all(row["numbers"]["peak_mib"] > 0 for row in result["rows"])
