"""Photos as users have them: folders, archives and TFDS data sets, listed and decoded."""

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp", ".mpo", ".png", ".apng", ".webp", ".tif", ".tiff"),
    *(".heic", ".heif", ".hif", ".avif", ".gif", ".bmp", ".dib", ".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm"),
)
