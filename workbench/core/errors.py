"""What can go wrong, as one tree.

    WorkbenchError
    ├── AskError                the request cannot be met: a prompt, size, picture, setting or name
    ├── ModelError              a model or checkpoint is at fault
    │   ├── UnsupportedFamily   the method does not know this kind of model
    │   ├── MissingPart         the model lacks a part, or a file is not there
    │   └── CheckpointMismatch  the weights are damaged or belong to another architecture
    ├── MethodError
    │   ├── DuplicateMethod     two classes claim one name
    │   └── UnknownMethod       no class has this name
    ├── PatchError
    │   └── BundleInUse         the part is offloaded, compiled or checkpointed: it cannot be patched
    └── ResourceError           disk or memory
        └── TapeFull            a recording would pass its ceiling

`Stopped` stands apart: it is how a tap ends a run early, not an error.

A message says what was asked (with the value), what is possible, and what to do.
"""


class WorkbenchError(Exception):
    """Anything this library raises on purpose."""


class AskError(WorkbenchError, ValueError):
    """The user's request cannot be met as it stands."""


class ModelError(WorkbenchError):
    """A model or checkpoint is at fault."""


class UnsupportedFamily(ModelError):
    """The method does not know this kind of model."""


class MissingPart(ModelError):
    """The model lacks a part, or a file is not there."""


class CheckpointMismatch(ModelError):
    """Weights are damaged, not finite, or belong to another architecture."""


class MethodError(WorkbenchError):
    """A method is declared or named wrongly."""


class DuplicateMethod(MethodError):
    """Two classes claim one name."""


class UnknownMethod(MethodError, LookupError):
    """No method has this name."""


class PatchError(WorkbenchError):
    """A change to a model cannot be made or undone."""


class BundleInUse(PatchError):
    """The part is offloaded, compiled or checkpointed, so its change could not be undone."""


class ResourceError(WorkbenchError):
    """Disk or memory ran out."""


class TapeFull(ResourceError):
    """A recording would pass its ceiling."""


class Stopped(Exception):
    """Raised by a tap to end a run; everything is undone on the way out."""
