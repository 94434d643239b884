"""Mask R-CNN with a feature pyramid, with Detectron2's semantics under static shapes (He et al. 2017, Lin et al. 2017).

Boxes are yxyx in pixels of the canvas. G objects of an image (padded), A anchors, P proposals, R sampled regions,
L levels of the pyramid.
"""
