"""Scenes composed of single-object photos, with known labels and boxes; two random crops often differ."""
