"""Detection and segmentation with our weights in Detectron2; nothing here needs Detectron2 itself.

`configs` writes the paper's protocol, `check` names what a config of yours would silently lose.
`python -m univip_jax.export.detectron2` is the command.
"""
