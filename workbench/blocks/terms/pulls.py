"""Terms that pull the network's word to a goal: the pictures themselves, the class's pictures, its own old word.

likeness   mean | e(x_t, caption) - y_t |^2         what a perfect network says of the given pictures
prior      w mean | e(x_t, class) - y_t |^2         of pictures that the untrained model drew (DreamBooth, 2208.12242)
contrast   w mean | e(x_t, bare) - e*(x_t, bare) |^2     what it said before, of the same x_t, without the trigger
           (contrastive adapter training, 2404.07554)
"""

from workbench.blocks.distill import TRUTH, Pull, student, teacher


def likeness() -> Pull:
    """The network learns to say the truth of the given pictures under their captions."""
    return Pull(student("caption"), TRUTH)


def prior(weight: float) -> Pull:
    """It goes on saying the truth of what it drew of the class before."""
    return Pull(student("prior"), TRUTH, weight)


def contrast(weight: float) -> Pull:
    """It goes on saying what it said where the caption has no trigger."""
    return Pull(student("bare"), teacher("bare"), weight)
