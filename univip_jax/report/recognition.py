"""Whether a network knows a photo again: by two views of it, drawn and augmented as in training, without labels."""

import numpy as np
from jaxtyping import Float

from univip_jax.report.neighbours import normalize

_HIGH = 0.9  # a share that has no room to rise
_ENOUGH = 20  # photos, for which such a share means something
_HTML = """<p><b>Recognition.</b> Two views of a photo, drawn and augmented as in training, find each other among the
{count} photos in <b>{after:.0%}</b> of the cases; before training in {before:.0%}, by chance in {chance:.1%}.
<b>{verdict}</b> Healthy: well above the share before training. It tells that the network sees through the changes of
training, on the very photos that it was trained on; not what else it knows.</p>"""


def recognition(pairs: Float[np.ndarray, "n 2 F"]) -> float:
    """The share of photos whose first view is nearer to their second view than to any other photo's."""
    first, second = normalize(pairs[:, 0]), normalize(pairs[:, 1])
    similarity = first @ second.T
    return float(((similarity >= np.diag(similarity)[:, None]).sum(1) == 1).mean())


def draw_recognition(before: Float[np.ndarray, "n 2 F"], after: Float[np.ndarray, "n 2 F"]) -> tuple[str, list[str]]:
    """Both shares in words, and a warning where the second is not clearly the greater one."""
    count, old, new = len(before), recognition(before), recognition(after)
    deviation = np.sqrt((old * (1 - old) + new * (1 - new)) / count)
    warnings = []
    if new > old + 2 * deviation or (new >= _HIGH and count >= _ENOUGH):
        verdict = "The network has learned to recognise these photos."
    else:
        fewer = new < old - 2 * deviation
        verdict = "It recognises fewer photos than before training." if fewer else "The difference is within chance."
        warnings.append(
            f"Two views of a photo find each other among {count} in {new:.0%} of the cases, before training in "
            f"{old:.0%}: nothing of this was learned so far. If it stays so to the end of the run, check the views in "
            "first_batch.png, and train in another --workdir for longer (--config.num_epochs) or with more photos"
        )
    return _HTML.format(count=count, before=old, after=new, chance=1 / count, verdict=verdict), warnings
