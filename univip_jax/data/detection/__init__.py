"""Photos with annotated objects, on few fixed canvases: what a detector learns from."""
