"""ToDo: attention looks from every token at a coarser grid of keys and values.

Paper: Smith, Saxena and Saha 2024, "ToDo: Token Downsampling for Efficient Generation of High-Resolution Images",
arXiv 2402.13573 (IJCAI 2024).

Equations: on a grid of N tokens, K and V are made of D(x), the first token of each cell of `factor` x `factor`, and
    attention(x) = softmax(Q(x) K(D(x))^T / sqrt(d)) V(D(x));
queries stay, so nothing has to be taken back. The core costs 1 / factor^2, keys' and values' projections likewise.

Differs: D is put in as what attention attends to, not behind the projections, so adapters on them keep their hooks;
grids that the factor does not divide keep a last, smaller cell where the official helper drops it. In joint attention
of picture and text, and with rotary positions, keys and values are thinned after projection, which is the same
number for less saving. The option to stop at a late timestep is left out.

Official numbers (README): about 1.5x at 768 to 1,024 px, over 3x at 1,536 to 2,048 px with flash attention.

Licence of the reference: ethansmith2000/ImprovedTokenMerge, none (read, not copied), function `up_or_downsample`.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from workbench.blocks.merging import Sides, known, merge_sites, site_grid
from workbench.core.attend import Attention, intercept
from workbench.core.bundle import Bundle, Condition, Site
from workbench.core.delta import Delta
from workbench.core.method import Card, Edit
from workbench.core.patch import Patch
from workbench.ops.tokens import Merging, coarse


class Todo(Edit):
    """Thin out the keys and values of self-attention."""

    card: ClassVar[Card] = Card("todo", "Token downsampling (ToDo)", "arXiv 2402.13573", ("unet", "dit", "mmdit"))
    neutral: ClassVar[Mapping[str, Any] | None] = {"factor": 1}

    factor: int = Field(2, ge=1, le=8, description="Side of the cells of which one key and value stay; 1 keeps all.")
    level: int | None = Field(None, ge=0, le=8, description="Halvings up to which to thin; none is the finest level.")

    def patch(self, bundle: Bundle, delta: Delta, patch: Patch) -> None:
        """Change what the self-attentions of the chosen levels attend to."""
        if self.factor == 1:
            return
        sizes = [bundle.shapes.latent[1:]]  # of the latent in hand; asked outside, so that a compiler can trace inside

        def watch(inner: Callable[..., Tensor]) -> Callable[..., Tensor]:
            def predict(x: Tensor, t: Tensor, cond: Condition) -> Tensor:
                sizes[0] = (x.shape[-2], x.shape[-1])
                return inner(x, t, cond)

            return predict

        patch.wrap("predict", watch)
        for site in merge_sites(bundle, self.level):
            patch.put(site.module, "forward", self._thinned(bundle, site, sizes, site.module.forward))

    def _thinned(
        self, bundle: Bundle, site: Site, sizes: list[tuple[int, int]], forward: Callable[..., Any]
    ) -> Callable[..., Any]:
        def thinned(*args: Any, **kwargs: Any) -> Any:
            size = site_grid(bundle, site, sizes[0])
            x, tokens = (args[0] if args else kwargs["hidden_states"]), size[0] * size[1]
            apart = bundle.family != "mmdit" and kwargs.get("image_rotary_emb") is None
            if x.shape[1] < tokens or (apart and (x.shape[1] != tokens or _elsewhere(kwargs))):
                return forward(*args, **kwargs)
            if not apart:
                return intercept(forward, lambda call: self._fewer(call, site, size), site.name)(*args, **kwargs)
            cell, first = (index.to(x.device) for index in coarse(size, self.factor))
            with known(Sides(None, Merging.of(cell.expand(len(x), -1), len(first)))):
                return forward(*args, **{**kwargs, "encoder_hidden_states": x[:, first]})

        thinned.intercepts = getattr(forward, "intercepts", False)  # type: ignore[attr-defined]
        return thinned

    def _fewer(self, call: Attention, site: Site, size: tuple[int, int]) -> Tensor:
        """A call with fewer keys and values; the text's all stay."""
        from_text = call.key.shape[-2] - size[0] * size[1]
        if from_text < 0 or call.mask is not None:
            return call.run()
        cell, first = (index.to(call.key.device) for index in coarse(size, self.factor))
        plan = Merging.of(cell.expand(len(call.key), -1), len(first))
        start = from_text if site.text == "first" else 0

        def thin(values: Tensor) -> Tensor:
            picture = values[..., start : start + len(cell), :].index_select(-2, first)
            return _joined(values[..., :start, :], picture, values[..., start + len(cell) :, :])

        with known(Sides(None, plan.beside(from_text, site.text == "first"))):
            return call.but(key=thin(call.key), value=thin(call.value)).run()


def _elsewhere(kwargs: Mapping[str, Any]) -> bool:
    """Whether the attention was told already what to attend to, or is masked."""
    return kwargs.get("encoder_hidden_states") is not None or kwargs.get("attention_mask") is not None


def _joined(*pieces: Tensor) -> Tensor:
    return torch.cat([piece for piece in pieces if piece.shape[-2]], -2)
