"""ESD: the model learns to steer away from a concept as negative guidance would.

Paper: Gandikota, Materzynska, Fiotto-Kaufman and Bau 2023, "Erasing Concepts from Diffusion Models", arXiv 2303.07345
(ICCV 2023).

Equations, with the frozen network e* and the one in training e, on states x_t of walks towards the concept c:
    loss = | e(x_t, c) - sg[ e*(x_t, 0) - eta (e*(x_t, c) - e*(x_t, 0)) ] |^2
over cross-attention (`x`), its key and value projections (`x-strict`) or all else (`u`). With `erase_from` c_f, the
concept goes from that prompt alone: | e(x_t, c_f) - sg[ e*(x_t, c_f) - eta (e*(x_t, c) - e*(x_t, 0)) ] |^2.

Differs: with `preserve`, every second walk follows a word of that list and pulls e(x_t, word) to what e* said, as later
erasers do. Walks are those of the frozen network (as in the authors' later code; in the paper those of the one in
training: `walk_by` student, walked anew every `refresh` steps), and all their states are used, many at a time, with
what the frozen network said on the way: one call with gradient a step instead of up to a hundred. The concept is taught
in several prompts, and "nothing" is each prompt without it, so the words around it stay. Predictions are compared as
the network makes them, which is noise in Stable Diffusion 1.x and velocity in others.
The authors' later code writes e*(c) - eta (e*(c) - e*(0)) with eta 2, which is the line above with eta 1; their first
script for diffusers has the line above with 2. So eta is not comparable across scripts; here it is the paper's.

Official settings for Stable Diffusion 1.4: 1000 iterations at rate 1e-5, batch 1, walks of 50 steps at guidance 3,
eta 1 (later code: 200 at 5e-5); `x` for what has a name, `u` for what is everywhere. The defaults here are for models
of some ten million parameters. In a trial on such a one `x` spoiled other words as well, so the default leaves queries
and outputs, which serve every prompt, alone. Official numbers (UnlearnDiffAtk leaderboard, SD 1.4; share of attacks
that still succeed before / with optimised prompts): Van Gogh 2 / 32 %, church 14 / 60 %, nudity 20.4 / 76.1 %.

Licence of the references: rohitgandikota/erasing, MIT (read, not copied), file `esd_sd.py`, function
`get_esd_trainable_parameters`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from workbench.blocks import lessons
from workbench.blocks.concepts import read_concepts
from workbench.blocks.distill import Pull, Recipe, Score, distill, student, teacher
from workbench.blocks.groups import Group
from workbench.blocks.pools import Lesson, Walks
from workbench.core.bundle import Bundle
from workbench.core.delta import Delta
from workbench.core.fields import Role
from workbench.core.method import Card, Edit
from workbench.core.tape import Tap

GROUPS: dict[str, Group] = {"x": "xattn", "u": "noxattn", "x-strict": "xattn_kv", "full": "full"}


class Esd(Edit):
    """Teach the model to move away from a concept when it is asked for."""

    card: ClassVar[Card] = Card("esd", "ESD", "arXiv 2303.07345", ("unet",), "minutes")
    quick: ClassVar[Mapping[str, Any]] = {
        "concepts": ("cat",), "iterations": 3, "batch": 2, "walks": 2, "walk_steps": 2, "rate": 1e-3}  # fmt: skip
    neutral: ClassVar[Mapping[str, Any] | None] = {"strength": 0.0}

    concepts: lessons.Concepts
    preserve: lessons.Preserve = ()
    erase_from: Annotated[str, Role("trigger")] = Field(
        "", max_length=300, description="Take the concept out of this prompt alone; empty takes it out everywhere."
    )
    variant: Literal["x", "x-strict", "u", "full"] = Field(
        "x-strict", description="What learns: cross-attention (x), its keys and values, all else (u), or everything."
    )
    eta: float = Field(1.0, ge=0, le=10, description="How far past nothing to steer away; 0 stops at nothing.")
    strength: lessons.Strength = 1.0
    iterations: lessons.Iterations = 200
    batch: lessons.BatchSize = 4
    rate: lessons.Rate = 1e-4
    walks: lessons.Count = 16
    walk_steps: lessons.WalkSteps = 20
    walk_guidance: lessons.WalkGuidance = 3.0
    walk_by: Literal["base", "student"] = Field("base", description="Who walks: the model as it was, or as it learns.")
    refresh: int = Field(50, ge=1, le=20_000, description="Steps of the optimiser between a student's walks.")
    manner: lessons.Speech = "auto"
    seed: lessons.Seed = 0

    def goal(self, role: str) -> Score:
        """What the network should say in a role."""
        concept, empty = teacher("concept"), teacher("empty")
        start = empty if role == "concept" else teacher(role)
        return start - self.eta * (concept - empty)

    def taught(self, bundle: Bundle) -> tuple[Lesson, ...]:
        """The prompts by role."""
        found = read_concepts(bundle, "esd", self.concepts, preserve=self.preserve)
        first = lessons.erasing(bundle, found, self.manner)
        if self.erase_from.strip():
            first = tuple({"concept": c, "empty": None, "from": self.erase_from.strip()} for c in found.targets)
        return lessons.alternate(first, lessons.kept(bundle, found.preserve, self.manner))

    def recipe(self, bundle: Bundle) -> Recipe:
        """What is learned, where and how fast."""
        role = "from" if self.erase_from.strip() else "concept"
        by, refresh = self.walk_by, self.refresh if self.walk_by == "student" else 0
        stay = (Pull(student("kept"), teacher("kept")),) if self.preserve else ()
        return Recipe(
            self.taught(bundle),
            (Pull(student(role), self.goal(role)), *stay),
            Walks(self.walks, self.walk_steps, self.walk_guidance, (role, "kept"), by, refresh),
            GROUPS[self.variant],
            iterations=self.iterations,
            batch=self.batch,
            rate=self.rate,
            seed=self.seed,
        )

    def fit(self, bundle: Bundle, tap: Tap) -> Delta:
        """Train; the change of the group's weights."""
        return distill(bundle, self.recipe(bundle), tap, self.fit_key)
