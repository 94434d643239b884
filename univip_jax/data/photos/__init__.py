"""Photos as users have them: folders, archives and TFDS data sets, listed and decoded."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
