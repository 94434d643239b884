"""Class folders as people have them: which folders are classes, and photos of any format, turned, or with odd names."""

import io
import os
import shutil
import unicodedata

import numpy as np
import pytest
from PIL import Image

from univip_jax.common.errors import UserError
from univip_jax.data.host import tf
from univip_jax.data.labelled.sets import centre_batches, open_labelled, open_pair, training_batches
from univip_jax.data.labelled.subset import drawn_subset, named_subset
from univip_jax.data.labelled.views import centre_crop
from univip_jax.data.records import decode_image


def stripes(index):
    """Horizontal ones, of soft colours: a turned photo is another."""
    rows = np.random.default_rng(index).integers(0, 256, (6, 1, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(rows).resize((48, 48), Image.Resampling.BICUBIC))


@pytest.fixture
def root(tmp_path):
    """Two classes of two photos."""
    for index in range(4):
        path = tmp_path / "set" / ("cat", "dog")[index // 2] / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(stripes(index)).save(path, quality=95)
    return tmp_path / "set"


def images(labelled):
    (batch,) = centre_batches(labelled, 42, 64)
    return batch.images.astype(int)


def test_hidden_and_system_folders_and_files_are_left_out(root):
    before = open_labelled(str(root))
    (root / ".ipynb_checkpoints").mkdir()
    for name in ("__MACOSX/cat", "@eaDir", "cat/@eaDir", "cat/.thumbnails"):
        (root / name).mkdir(parents=True)
    for name in ("__MACOSX/cat/._0.jpg", "@eaDir/0.jpg", "cat/@eaDir/0.jpg", "cat/.thumbnails/0.jpg", "cat/._0.jpg"):
        (root / name).write_bytes(b"no photo")
    (root / "cat/Thumbs.db").touch()
    after = open_labelled(str(root))
    assert (after.classes, after.num_images, after.fingerprint) == (("cat", "dog"), 4, before.fingerprint)


def test_what_is_left_out_is_counted_in_one_line(root, capsys):
    for name in ("cat/a.cr2", "dog/b.CR2", "dog/c.mov", "loose.jpg", "labels.csv"):
        (root / name).touch()
    assert open_labelled(str(root)).num_images == 4
    one, other = capsys.readouterr().err.splitlines()
    assert one == f"{root}: 1 photos lie in no class folder and are left out"
    assert other.startswith(f"{root}: passed over 4 files of other formats: 2 .cr2, 1 ")


def test_links_are_followed(root, tmp_path):
    (root / "dog").rename(tmp_path / "elsewhere")
    (root / "dog").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "more").mkdir()
    (root / "cat/0.jpg").rename(tmp_path / "more/0.jpg")
    (root / "cat/more").symlink_to(tmp_path / "more")
    assert open_labelled(str(root)).num_images == 4


@pytest.mark.parametrize("target", ["../dog", ".."])
def test_links_that_mix_classes_are_refused_by_name(root, target):
    (root / "cat/more").symlink_to(target)
    with pytest.raises(UserError, match=r"set/(dog|cat) is in the classes cat and dog of .*, by a link: remove the"):
        open_labelled(str(root))


def test_class_that_is_a_broken_link_is_named(root):
    (root / "bird").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"1 photos or folders of .* cannot be read: bird \(a broken link\)"):
        open_labelled(str(root))


def test_broken_link_and_pipe_are_named_at_once(root):
    (root / "cat/lost.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(root / "dog/pipe.jpg")
    words = (
        r"2 photos or folders of .* cat/lost\.jpg \(unreadable file: No such.*\), dog/pipe\.jpg \(not a regular file\)"
    )
    with pytest.raises(UserError, match=words):
        open_labelled(str(root))


def odd(name, tmp_path):
    """Writes the stripes of number 9 in another way, which the name begins with."""
    image, exif = Image.fromarray(stripes(9)), Image.Exif()
    exif[0x0112] = 6
    turned = image.transpose(Image.Transpose.ROTATE_90)
    path = tmp_path / name
    match name.split("-")[0]:
        case "turned":
            turned.save(path, quality=95, exif=exif)
        case "turned_png":
            turned.save(path, "PNG", exif=exif)
        case "cmyk":
            image.convert("CMYK").save(path, quality=95)
        case "deep":
            Image.fromarray(stripes(9)[..., 0].astype(np.uint16) * 16).save(path, "PNG")
        case "cut":
            image.save(path, quality=95)
            path.write_bytes(path.read_bytes()[:-2])
        case kind:
            image.save(path, kind.upper())


@pytest.mark.parametrize(
    "name",
    [
        *(
            "turned-.jpg",
            "turned_png-.png",
            "cmyk-.jpg",
            "deep-.png",
            "webp-.webp",
            "webp-.jpg",
            "tiff-.tif",
            "heif-.heic",
        ),
        *("avif-.avif", "heif-.jpg", "bmp-.bmp", "cut-.jpg", "jpeg-.jfif", "png-.jpe"),
    ],
)
def test_each_photo_is_read_upright_whatever_its_format(root, name):
    odd(name, root / "dog")
    expected = stripes(9)[..., [0, 0, 0]] if name.startswith("deep") else stripes(9)
    expected = centre_crop(expected, 42).numpy().astype(int)
    labelled = open_labelled(str(root))
    assert labelled.num_images == 5
    off = np.abs(images(labelled)[-1] - expected).mean()
    assert off < 6 < np.abs(images(labelled)[:-1] - expected).mean((1, 2, 3)).min()
    # The batches of a training read the same.
    assert len(list(training_batches(labelled, 32, 5, seed=0, num_epochs=1))) == 1


def test_half_photos_that_have_an_end_are_named(root):
    whole = (root / "dog/2.jpg").read_bytes()
    (root / "dog/2.jpg").write_bytes(whole[: len(whole) * 3 // 4] + b"\xff\xd9")
    image = Image.fromarray(np.kron(stripes(2), np.ones([9, 9, 1], np.uint8)))
    image.paste((9, 9, 9), (0, 200, 432, 432))
    image.save(root / "dog/flat.jpg")
    with pytest.raises(UserError, match=r"1 of the 5 photos .*dog/2\.jpg \(damaged: cut short, \d+\.\d% of its pix"):
        images(open_labelled(str(root)))


def test_ordinary_photos_have_the_pixels_of_tensorflow(root):
    paths = sorted(root.rglob("*.jpg"))
    expected = np.stack([centre_crop(decode_image(path.read_bytes()), 42).numpy() for path in paths])
    np.testing.assert_array_equal(images(open_labelled(str(root))), expected)


def test_encoded_photos_are_read_in_the_same_way(root):
    odd("turned-.jpg", root / "dog")
    by_path = open_labelled(str(root))
    encoded = by_path.examples.map(lambda path, label: (tf.io.read_file(path), label))
    np.testing.assert_array_equal(images(by_path._replace(examples=encoded, is_encoded=True)), images(by_path))


def test_names_may_have_any_bytes(root, tmp_path):
    path = os.fsencode(root) + b"/dog/caf\xe9.jpg"
    with open(path, "wb") as file:
        buffer = io.BytesIO()
        Image.fromarray(stripes(9)).save(buffer, "JPEG")
        file.write(buffer.getvalue())
    labelled = open_labelled(str(root))
    assert labelled.num_images == 5 and len(images(labelled)) == 5
    assert drawn_subset(labelled, 100, seed=0).num_images == 5
    (tmp_path / "list.txt").write_text("0.jpg\n2.jpg\n")
    assert named_subset(labelled, tmp_path / "list.txt").num_images == 2
    with open(path, "wb") as file:
        file.write(b"no photo")
    with pytest.raises(UserError, match=r"1 of the 5 photos .*dog/caf\\xe9\.jpg \(not an image\); remove or replace"):
        images(open_labelled(str(root)))


def test_classes_of_a_mac_are_those_of_other_systems(root, tmp_path):
    shutil.copytree(root, tmp_path / "other")
    for folder, form in ((root, "NFC"), (tmp_path / "other", "NFD")):
        (folder / "cat").rename(folder / unicodedata.normalize(form, "Kätzchen"))
        (folder / "dog").rename(folder / "Kz")
    one, other = open_pair(str(root), str(tmp_path / "other"))
    assert one.classes == other.classes == ("Kz", unicodedata.normalize("NFC", "Kätzchen"))
