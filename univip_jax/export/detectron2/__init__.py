"""Detection and segmentation with our weights in Detectron2; nothing here needs Detectron2 itself.

1x.yaml, 2x.yaml and 6x.yaml are the paper's protocol; `check` names what a config of yours would silently lose.
`python -m univip_jax.export.detectron2` is the command.
"""
