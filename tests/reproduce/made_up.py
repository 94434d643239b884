"""Made-up runs and results, and a reader of the tables that are printed for them."""

import json
from pathlib import Path

from univip_jax.run.folder import write_config

COCO_STEPS = 231 * 800  # 118,287 // 512 per epoch


def write_run(folder: Path, config, **fields) -> None:
    config.update_from_flattened_dict(fields)
    folder.mkdir(parents=True)
    write_config(folder, config)


def write_result(folder: Path, pretrained: str, top1: float, **fields) -> None:
    """By default linear_orl, on all of ImageNet, of the last step of 800 epochs of COCO."""
    values = {"protocol": "linear_orl", "top1": top1, "pretrained": pretrained, "step": COCO_STEPS, "image_size": 224}
    values |= {"chosen": {"pooling": "res5" if fields.get("protocol", "linear_orl") == "linear_orl" else "gap"}}
    values |= {"epochs": 28, "classes": 1000, "seed": 0, "train": {"images": 1_281_167}, "test": {"images": 50_000}}
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(values | fields))


def rows(text: str) -> dict[str, list[list[str]]]:
    """The cells of each row of a Markdown table, by the row's name."""
    found = {}
    for line in text.splitlines():
        if line.startswith("| "):
            name, *cells = (cell.strip() for cell in line.strip("| ").split(" | "))
            found.setdefault(name, []).append(cells)
    return found
