"""The paper's detection protocol for Detectron2 (1x.yaml, 2x.yaml, 6x.yaml), and `check` of your own config."""
