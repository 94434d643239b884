"""What a message tells a user to give is a flag that can be pasted."""

import ast
import re
from pathlib import Path

from configs import coco, detection, knn, linear, semi, svm
from univip_jax.config import flatten

ROOT = Path(__file__).parents[1]
# Every field of a config, with its section.
FIELDS = {name for config in (coco, detection, knn, linear, semi, svm) for name in flatten(config.get_config())}
ADVICE = re.compile(r"\b(?:lower|raise|set|give|lengthen|leave(?: out)?)\s+(?:config\.)?([a-z]\w*(?:\.\w+)*)")


def messages() -> list[tuple[str, str]]:
    """Each UserError's place and text, values as {}."""
    found = []
    for path in [*ROOT.glob("univip_jax/**/*.py"), *ROOT.glob("data_prep/*.py"), ROOT / "main.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("UserError", "TransientError"):
                parts = [part for argument in node.args for part in getattr(argument, "values", [argument])]
                text = "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in parts)
                found.append((f"{path.relative_to(ROOT)}:{node.lineno}", text))
    return found


def test_advice_names_flags_and_no_bare_fields():
    assert ADVICE.findall("set views.area or lower batch_size; give --config.k=1") == ["views.area", "batch_size"]
    texts = messages()
    assert len(texts) > 150 and sum("--config." in text for _, text in texts) > 20
    bare = [(place, text) for place, text in texts if FIELDS & set(ADVICE.findall(text))]
    assert not bare
    unquoted = [(place, text) for place, text in texts if re.search(r"--config\.[\w.]+=\(", text)]
    assert not unquoted  # a shell reads the parenthesis
