"""How long the closed-form erasers take on a model of real size: one concept, and a hundred at once.

fit_seconds(blank("sd1", device="cuda", dtype=torch.float16))
"""

from collections.abc import Mapping
from statistics import median

from workbench.blocks.cost import fit_cost
from workbench.blocks.neighbours import vocabulary
from workbench.core.bundle import Bundle
from workbench.core.catalog import method
from workbench.core.errors import AskError
from workbench.core.method import Edit

#: Seconds the papers name for the same work: RECE's abstract, SPEED's README.
PAPERS: Mapping[str, float] = {"rece, 1 concept": 3.0, "speed, 100 concepts": 5.0}


def fit_seconds(bundle: Bundle, repeats: int = 3, many: int = 100) -> dict[str, float]:
    """Median seconds of fits, reading of the texts included, after one that is not counted.

    Words are those of `vocabulary`: the first `many` go, the next hundred stay. Nothing is taken from a cache when the
    bundle has no store, as a blank one has none. Raises `AskError` when the vocabulary is too small.
    """
    words = vocabulary(bundle)
    if len(words) <= many:
        raise AskError(f"{bundle.name} has {len(words)} words to erase and to keep; {many} are to go. Ask for fewer.")
    kept = words[many : many + 100]
    jobs = {
        "rece, 1 concept": method("rece", concepts=words[:1], preserve=kept),
        f"speed, {many} concepts": method("speed", concepts=words[:many], preserve=kept),
    }
    return {name: _median(bundle, edit, repeats) for name, edit in jobs.items() if isinstance(edit, Edit)}


def _median(bundle: Bundle, edit: Edit, repeats: int) -> float:
    fit_cost(bundle, [edit])
    return median(fit_cost(bundle, [edit]).seconds for _ in range(max(repeats, 1)))
