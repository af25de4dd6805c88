import pytest

from workbench.core.errors import MissingPart
from workbench.models.hub import choose, fetch

SD = [
    "README.md",
    "model_index.json",
    "scheduler/scheduler_config.json",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "unet/config.json",
    "vae/config.json",
]
MODEL = "diffusion_pytorch_model"


def test_only_json_text_and_one_set_of_weights_are_taken() -> None:
    others = ["sd.ckpt", "sd.safetensors", "pipeline.py", "safety_checker/model.safetensors"]
    others += [f"unet/{MODEL}.bin", f"unet/{MODEL}.fp16.safetensors", f"vae/{MODEL}.fp16.safetensors"]
    taken = choose([*SD, *others, "unet/diffusion_pytorch_model.safetensors"])
    weights = {"unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.fp16.safetensors"}
    assert set(taken) == {*SD, *weights} - {"README.md"}


def test_shards_come_with_their_index() -> None:
    shards = [
        f"unet/diffusion_pytorch_model{x}" for x in ("-00001-of-00002.safetensors", "-00002-of-00002.safetensors")
    ]
    index = "unet/diffusion_pytorch_model.safetensors.index.json"
    assert {*shards, index} <= set(choose([*SD, *shards, index]))


def test_a_clip_folder_has_its_weights_at_the_top() -> None:
    listing = ["config.json", "model.safetensors", "pytorch_model.bin", "tokenizer.json", "preprocessor_config.json"]
    assert set(choose(listing)) == {*listing} - {"pytorch_model.bin"}


def test_a_repository_of_pickles_is_refused_with_the_way_out() -> None:
    with pytest.raises(MissingPart, match="workbench convert"):
        choose([*SD, "unet/diffusion_pytorch_model.bin"])


def test_out_of_reach_names_the_cache_folder() -> None:
    with pytest.raises(MissingPart, match=r"not in the hub's cache \(.*hub\).*OFFLINE is set.*Go online once"):
        fetch("nobody/nothing")


def test_a_hub_that_does_not_answer_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(MissingPart, match=r"could not be downloaded \(.*refused"):
        fetch("nobody/nothing")
