"""Detection and segmentation with our weights in Detectron2; nothing here needs Detectron2 itself.

`names` renames arrays, `pickle_file` reads and writes its `.pkl` without running code, `configs` writes the paper's
protocol, `check` names what a config of yours would silently lose. `python -m univip_jax.detectron2` is the command.
"""
