"""Scenes composed of single-object photos, with known labels and boxes: where two random crops often differ."""
