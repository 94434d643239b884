"""Whether a network knows a photo again: by two views of it, drawn and augmented as in training, without labels."""

import numpy as np
from jaxtyping import Float

from univip_jax.report.neighbours import normalize

_HIGH = 0.9  # a share that has no room to rise
_HTML = """<p><b>Recognition.</b> Two views of a photo, drawn and augmented as in training, find each other among the
{count} photos in <b>{after:.0%}</b> of the cases; before training in {before:.0%}, by chance in {chance:.1%}.
<b>{verdict}</b> Healthy: well above the share before training. It tells that the network sees through the changes of
training, on the very photos that it was trained on; not what else it knows.</p>"""


def recognition(pairs: Float[np.ndarray, "n 2 F"]) -> float:
    """The share of photos whose first view is nearer to their second view than to any other photo's."""
    first, second = normalize(pairs[:, 0]), normalize(pairs[:, 1])
    similarity = first @ second.T
    return float(((similarity >= np.diag(similarity)[:, None]).sum(1) == 1).mean())


def draw_recognition(before: Float[np.ndarray, "n 2 F"], after: Float[np.ndarray, "n 2 F"]) -> str:
    """Both shares in words."""
    count, old, new = len(before), recognition(before), recognition(after)
    deviation = np.sqrt((old * (1 - old) + new * (1 - new)) / count)
    if new > old + 2 * deviation or new >= _HIGH:
        verdict = "The network has learned to recognise these photos."
    elif new < old - 2 * deviation:
        verdict = "The network recognises fewer photos than before: it unlearned, or has hardly begun."
    else:
        verdict = "The difference is within chance: it has not learned to recognise them yet."
    return _HTML.format(count=count, before=old, after=new, chance=1 / count, verdict=verdict)
