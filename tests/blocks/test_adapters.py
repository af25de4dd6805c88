"""Adapters live: the same numbers as peft's own layers, no trace afterwards, and none of peft's traps."""

import copy
from pathlib import Path

import pytest
import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from torch import Tensor
from torch.testing import assert_close

from tests.loras import FORMATS, diffusers, kohya_lora, real_size, saved
from tests.tiny import SIDE, tiny_sd, tiny_sdxl
from workbench.blocks.adapter_files import write
from workbench.blocks.adapters import Adapter, attach, look_at, random_adapter, read_adapter, wear
from workbench.blocks.denoise import condition
from workbench.blocks.gates import scalar
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle
from workbench.core.errors import AskError, CheckpointMismatch, PatchError
from workbench.core.patch import Patch, differences, fingerprint
from workbench.ops.low_rank import LowRank

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]


def said(bundle: Bundle, adapter: Adapter | None = None, weight: float = 1.0) -> Tensor:
    x = torch.randn(2, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    ask = Ask(prompts=("a cat", "the red dog"))
    with torch.no_grad(), Patch(bundle) as patch:
        if adapter is not None:
            wear(patch, bundle, adapter, scalar(weight))
        told = condition(bundle, ask, False, (2 * SIDE, 2 * SIDE))
        return bundle.predict(x, torch.tensor([300, 700]), told)


def injected(config: object, folder: Path) -> Tensor:
    """What peft's own layers say with factors drawn at random, and the folder that peft writes of them."""
    bundle = tiny_sd()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = get_peft_model(copy.deepcopy(bundle.parts["unet"]), config)  # type: ignore[arg-type]
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                torch.nn.init.normal_(weight, std=0.2)
            assert "lora_embedding" not in name
    model.save_pretrained(folder)
    x = torch.randn(2, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    told = condition(bundle, Ask(prompts=("a cat", "the red dog")), False, (2 * SIDE, 2 * SIDE))
    with torch.no_grad():
        return model(x, torch.tensor([300, 700]), encoder_hidden_states=told.text.states, return_dict=False)[0]


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=4, lora_alpha=6, target_modules=[*ATTENTION, "conv1", "proj_in"]),
        LoraConfig(r=4, lora_alpha=6, use_rslora=True, target_modules=ATTENTION),
        LoraConfig(r=3, lora_alpha=3, use_dora=True, target_modules=[*ATTENTION, "conv1"]),
        LoraConfig(r=4, lora_alpha=4, target_modules=ATTENTION, rank_pattern={"to_q": 2}, alpha_pattern={"to_v": 9}),
        LoHaConfig(r=2, alpha=5, target_modules=[*ATTENTION, "conv1"]),
        LoKrConfig(r=2, alpha=5, target_modules=[*ATTENTION, "conv2"]),
    ],
    ids=["lora", "rslora", "dora", "patterns", "loha", "lokr"],
)
def test_a_live_adapter_says_what_peft_says(config: object, tmp_path: Path) -> None:
    wanted = injected(config, tmp_path)
    adapter = read_adapter(tiny_sd(), tmp_path)
    assert adapter.report.found == 1.0
    assert (wanted - said(tiny_sd())).abs().max() > 0.01
    assert_close(said(tiny_sd(), adapter), wanted, rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_lives_as_the_weights_it_means(form: str, tmp_path: Path) -> None:
    """Live hooks against weights that were changed by the same amount; afterwards the model is what it was."""
    bundle = tiny_sd()
    tensors, _ = FORMATS[form](bundle)
    adapter = read_adapter(bundle, saved({k: 0.3 * v if v.is_floating_point() and v.ndim else v
                                          for k, v in tensors.items()}, tmp_path / "a.safetensors"))  # fmt: skip
    before = fingerprint(bundle, deep=True)
    live = said(bundle, adapter, 0.7)
    assert differences(before, fingerprint(bundle, deep=True)) == []
    merged = copy.deepcopy({name: part for name, part in bundle.parts.items() if name != "vae"})
    with Patch(bundle) as patch:
        for key in (*adapter.low_rank, *adapter.dense):
            owner, name = patch.find(key)
            change = adapter.low_rank.dense(key) if key in adapter.low_rank else adapter.dense[key]
            own = getattr(owner, name)
            patch.put(owner, name, torch.nn.Parameter(own.detach() + 0.7 * change.reshape(own.shape), False))
        dense = said(bundle)
    assert_close(live, dense, rtol=2e-4, atol=2e-5)
    assert not torch.equal(live, said(bundle))
    assert len(merged) == 2


def test_the_same_adapter_in_kohyas_and_pefts_words_is_the_same(tmp_path: Path) -> None:
    bundle = tiny_sdxl()
    one = read_adapter(bundle, saved(kohya_lora(bundle)[0], tmp_path / "k.safetensors"))
    two = read_adapter(bundle, saved(diffusers(bundle)[0], tmp_path / "d.safetensors"))
    assert set(one.low_rank) == set(two.low_rank)
    for key in one.low_rank:
        assert_close(2 * one.low_rank.dense(key), two.low_rank.dense(key))  # alpha 1 of rank 2


def test_two_live_adapters_are_their_exact_sum() -> None:
    """Not the product of summed factors, which would hold cross terms."""
    bundle = tiny_sd()
    first, second = (random_adapter(bundle, f"random:{i}").low_rank for i in (1, 2))
    joined = first.scaled(0.7).concatenated(second.scaled(0.5))
    with Patch(bundle) as patch:
        attach(patch, bundle, first, scalar(0.7))
        attach(patch, bundle, second, scalar(0.5))
        both = said(bundle)
    assert_close(both, said(bundle, Adapter("sum", joined)), rtol=1e-5, atol=3e-6)


def test_an_adapter_of_another_architecture_is_refused_with_its_report(tmp_path: Path) -> None:
    tensors, _ = diffusers(tiny_sdxl())
    file = saved(tensors, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointMismatch, match="belongs to another architecture") as refused:
        read_adapter(tiny_sd(), file)
    assert refused.value.report.count("wrong shape") > 0  # type: ignore[attr-defined]
    assert look_at(tiny_sd(), file).report.refusal == str(refused.value)


def test_factors_of_two_ranks_are_refused_with_both(tmp_path: Path) -> None:
    key = tiny_sd().sites("cross-attention")[0].value.key
    stem = f"base_model.model.{key.partition(':')[2].removesuffix('.weight')}"
    up, down = random_adapter(tiny_sd(), "random:1").low_rank.factors[key]
    file = saved({f"{stem}.lora_A.weight": down[:2].clone(), f"{stem}.lora_B.weight": up}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointMismatch, match=r"up has rank 4 and down 2.*or is damaged") as refused:
        read_adapter(tiny_sd(), file)
    assert "\n" not in str(refused.value)


def test_an_adapter_of_other_weights_is_worn_with_a_note(tmp_path: Path) -> None:
    write(random_adapter(tiny_sd(), "random:1").low_rank, tmp_path, base="0123456789abcdef")
    (note,) = read_adapter(tiny_sd(), tmp_path).report.notes
    assert note == "It was trained on other weights (01234567) than tiny-sd has (tiny-sd-)."


def test_names_that_fit_nowhere_are_no_silent_success(tmp_path: Path) -> None:
    """diffusers attaches 38 of 48 layers of such a file and only logs it."""
    tensors, _ = diffusers(tiny_sd())
    moved = {name.replace("down_blocks.0", "down_blocks.9"): value for name, value in tensors.items()}
    with pytest.raises(CheckpointMismatch, match="no such place"):
        read_adapter(tiny_sd(), saved(moved, tmp_path / "moved.safetensors"))


def test_a_few_foreign_places_are_reported_and_the_rest_is_used(tmp_path: Path) -> None:
    tensors, wanted = diffusers(tiny_sd())
    extra = {"text_encoder_3.layer.lora_A.weight": torch.ones(1, 2), "strange": torch.ones(3, 3)}
    adapter = read_adapter(tiny_sd(), saved({**tensors, **extra}, tmp_path / "more.safetensors"))
    assert len(adapter.low_rank) == len(wanted)
    assert {line.name for line in adapter.report.lines if line.fate == "unused"} == {
        "strange", "text_encoder_3.layer"}  # fmt: skip


def test_alpha_counts_once(tmp_path: Path) -> None:
    """peft's merging family has applied it twice, and keeps sqrt(r) of rank-stabilised files."""
    tensors, _ = kohya_lora(tiny_sd())
    alphas = {name: torch.tensor(6.0) for name in tensors if name.endswith(".alpha")}
    one = read_adapter(tiny_sd(), saved(tensors, tmp_path / "one.safetensors")).low_rank
    six = read_adapter(tiny_sd(), saved({**tensors, **alphas}, tmp_path / "six.safetensors")).low_rank
    for key in one:
        assert_close(six.dense(key), 6 * one.dense(key))


def test_learned_words_of_another_width_are_refused(tmp_path: Path) -> None:
    file = saved({"<toy>": torch.ones(2, 99)}, tmp_path / "toy.safetensors")
    with pytest.raises(CheckpointMismatch, match="99 numbers"):
        read_adapter(tiny_sd(), file)


def test_keys_of_no_matrix_are_refused() -> None:
    bundle = tiny_sd()
    norm = "unet:down_blocks.0.resnets.0.norm1.weight"
    with Patch(bundle) as patch, pytest.raises(PatchError, match="GroupNorm"):
        attach(patch, bundle, LowRank({norm: (torch.ones(16, 1), torch.ones(1, 1))}))
    key = next(iter(random_adapter(bundle, "random:1").low_rank))
    with Patch(bundle) as patch, pytest.raises(CheckpointMismatch, match="another model"):
        attach(patch, bundle, LowRank({key: (torch.ones(3, 1), torch.ones(1, 3))}))


def test_dense_changes_become_exact_factors(tmp_path: Path) -> None:
    tensors, wanted = FORMATS["full"](tiny_sd())
    adapter = read_adapter(tiny_sd(), saved(tensors, tmp_path / "full.safetensors"))
    whole = adapter.whole()
    for key, value in wanted.items():
        if value.ndim == 2:
            assert_close(whole.dense(key).double(), value)


def test_random_adapters_need_a_number() -> None:
    with pytest.raises(AskError, match="whole number"):
        random_adapter(tiny_sd(), "random:x")


def test_a_model_without_numbers_still_gets_a_report(tmp_path: Path) -> None:
    bundle = real_size("sd1")
    some = {f"unet.down_blocks.0.resnets.0.norm{i}.weight": torch.ones(320) for i in (1, 2)}
    report = look_at(bundle, saved(some, tmp_path / "norms.safetensors")).report
    assert (report.found, report.formats) == (1.0, ("whole",))
