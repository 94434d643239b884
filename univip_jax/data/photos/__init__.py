"""Photos as users have them: folders, archives and TFDS data sets, listed and decoded."""

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp", ".mpo", ".png", ".apng", ".webp", ".tif", ".tiff"),
    *(".heic", ".heif", ".hif", ".avif", ".gif", ".bmp", ".dib", ".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm"),
)

# Pillow's names of these formats (MPO is a JPEG); it may read no others: for EPS, in a file of any suffix, it runs a
# program.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "HEIF", "AVIF", "GIF", "BMP", "DIB", "JPEG2000", "PPM")
