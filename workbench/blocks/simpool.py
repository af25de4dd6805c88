"""SimPool: pool a picture's patches by one attention query, whose weights are a map of what the picture is about.

Psomas et al. 2023, arXiv 2309.06891. With X the n patch features and u their mean (not normalised),
    a = softmax((W_q u) (W_k LN(X))^T / sqrt(d)),   z = sum_j a_j LN(X)_j
with one head and no value projection (the paper's case without gamma), then a projection to where texts are compared.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch's norm, unique and from_numpy carry no types

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from workbench.core.bundle import Bundle
from workbench.core.errors import CheckpointMismatch, MissingPart

FILE = "simpool.safetensors"


class SimPool(nn.Module):
    """Attention pooling over `width` features into `out` numbers."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.project = nn.Linear(width, out, bias=False)

    def weights(self, features: Float[Tensor, "B n D"]) -> Float[Tensor, "B n"]:
        """The share of each patch in the pooled feature; each row sums to one."""
        query, key = self.query(features.mean(1)), self.key(self.norm(features))
        return ((key @ query[..., None])[..., 0] / features.shape[-1] ** 0.5).softmax(-1)

    def forward(self, features: Float[Tensor, "B n D"]) -> Float[Tensor, "B E"]:
        """Unit vectors to compare with those of texts."""
        pooled = (self.weights(features)[:, None] @ self.norm(features))[:, 0]
        return F.normalize(self.project(pooled), dim=-1)


def load_simpool(scorer: Bundle) -> SimPool:
    """The pooling trained for a scorer, from the file in its folder.

    Raises `MissingPart` where there is none and `CheckpointMismatch` for one trained on another scorer.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(scorer.source) / FILE
    if not path.is_file():
        raise MissingPart(f"{scorer.name} has no {FILE} beside its weights (yet). Train it: workbench train simpool.")
    try:
        with safe_open(path, "pt") as file:
            digest = (file.metadata() or {}).get("digest", "")
            tensors: dict[str, Tensor] = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointMismatch(f"{path.name} of {scorer.name} cannot be read ({error}). Train it again.") from None
    if digest != scorer.digest:
        raise CheckpointMismatch(
            f"{FILE} was trained on a scorer {str(digest)[:12]}, and {scorer.name} is {scorer.digest[:12]}. Train it "
            "again: workbench train simpool."
        )
    out, width = tensors["project.weight"].shape
    with torch.device("meta"):  # first weights would be drawn from the global generator, for nothing
        pool = SimPool(width, out)
    pool.load_state_dict(tensors, assign=True)
    return pool.eval().requires_grad_(False)
