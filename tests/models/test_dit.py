"""What the readers of transformers share."""

import torch

from tests.tiny import flux_pipe, sd3_pipe, tiny_flux, tiny_pixart, tiny_sd3
from workbench.core.bundle import Bundle, Condition
from workbench.models import dit


def test_the_transformer_comes_first_and_only_what_is_there_is_a_part() -> None:
    assert list(dit.parts(sd3_pipe(t5=False))) == ["transformer", "vae", "text", "text2"]
    assert list(dit.parts(flux_pipe())) == ["transformer", "vae", "text", "text2"]


def test_a_patch_of_two_cells_halves_the_grid_once() -> None:
    assert [dit.level(patch) for patch in (1, 2, 4)] == [0, 1, 2]


def test_sizes_are_multiples_of_a_patch_and_latents_are_not_patches() -> None:
    shapes = dit.shapes(sd3_pipe(), 8, 2, (77, 32))
    assert (shapes.latent, shapes.image, shapes.multiple, shapes.factor) == ((4, 8, 8), (3, 16, 16), 4, 2)


def test_attentions_and_mlps_stand_in_the_order_of_the_forward_pass() -> None:
    for bundle in (tiny_sd3(), tiny_pixart(), tiny_flux()):
        _in_order(bundle)


def _in_order(bundle: Bundle) -> None:
    sites = [site for site in bundle.all_sites if site.kind in ("self-attention", "cross-attention", "mlp")]
    seen: list[str] = []
    hooks = [
        site.module.register_forward_hook(lambda *_, name=site.name: seen.append(name))  # type: ignore[misc]
        for site in sites
    ]
    cond = Condition(bundle.read(["a cat"]), (0,), ("cond",))
    bundle.predict(torch.zeros(1, *bundle.shapes.latent), torch.tensor([5]), cond)
    for hook in hooks:
        hook.remove()
    assert seen == [site.name for site in sites]


def test_every_matrix_of_a_site_is_where_its_key_says() -> None:
    for bundle in (tiny_sd3(), tiny_pixart(), tiny_flux()):
        for site in bundle.all_sites:
            for handle in site.handles.values():
                part, _, path = handle.key.partition(":")
                assert bundle.parts[part].get_parameter(path).data_ptr() == handle.owner.weight.data_ptr()
