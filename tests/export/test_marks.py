"""Marks: generated images say so, others do not, and no pixel changes."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from engine.cli.main import main
from engine.export.config import ExportConfig
from engine.export.credentials import Signer, make_test_credential
from engine.export.export import export_images
from engine.export.rows import suffix_of
from engine.export.xmp import GENERATED, Provenance, add_xmp, packet
from engine.images import decode_image
from tests.export.helpers import FORMATS, Filled

TYPES = {True: "compositeWithTrainedAlgorithmicMedia", False: "trainedAlgorithmicMedia"}
PLAIN = Provenance(GENERATED, "a <b> & c", 'rev"1')


def source_type(image: bytes) -> str:
    """The term in an image's XMP, as Pillow finds the packet; empty without one."""
    info = Image.open(io.BytesIO(image)).info
    xmp = info.get("xmp") or info.get("XML:com.adobe.xmp") or b""
    xmp = xmp.encode() if isinstance(xmp, str) else xmp
    found = re.search(rb"DigitalSourceType>http://cv\.iptc\.org/newscodes/digitalsourcetype/(\w+)<", xmp)
    return found[1].decode() if found else ""


def images_of(output: Path) -> dict[str, bytes]:
    return {
        row["id"]: row["image"]["bytes"]
        for path in (output / "data").glob("*.parquet")
        for row in pq.read_table(path, columns=["id", "image"]).to_pylist()
    }


def pictures() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, shape, np.uint8) for shape in ((1, 1, 3), (33, 7, 3), (64, 64, 3), (300, 5, 3))]


@pytest.mark.parametrize("name", list(FORMATS))
def test_xmp_changes_no_pixel_of_any_size(name: str):
    for pixels in pictures():
        image = FORMATS[name].encode(pixels)
        marked = add_xmp(image, packet(PLAIN))
        np.testing.assert_array_equal(decode_image(marked), decode_image(image))
        assert source_type(marked) == "trainedAlgorithmicMedia"
        assert suffix_of(marked) == suffix_of(image)


@pytest.mark.parametrize("lossless", [True, False])
def test_xmp_keeps_transparency(lossless: bool):
    pixels = np.random.default_rng(1).integers(0, 256, (9, 10, 4), np.uint8)
    for kind in ("WEBP", "PNG"):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind, **({"lossless": lossless} if kind == "WEBP" else {}))
        marked = Image.open(io.BytesIO(add_xmp(buffer.getvalue(), packet(PLAIN))))
        assert marked.mode == "RGBA"
        np.testing.assert_array_equal(np.asarray(marked), np.asarray(Image.open(buffer)))


def test_xmp_is_well_formed_and_escaped():
    from xml.etree import ElementTree

    text = packet(PLAIN).decode()
    (description,) = ElementTree.fromstring(text).iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    fields = {one.tag.rpartition("}")[2]: one.text for one in description}
    assert fields["AISystemUsed"] == "a <b> & c"
    assert fields["AISystemVersionUsed"] == 'rev"1'


def test_another_format_is_refused_with_one_sentence():
    with pytest.raises(ValueError, match="no PNG, JPEG or WebP"):
        add_xmp(b"GIF89a", packet(PLAIN))


@pytest.mark.parametrize("name", ["parquet", "webdataset", "folder"])
def test_generated_images_say_so_and_originals_are_untouched(filled: Filled, exported, name: str):
    import tarfile

    output = exported(name).output
    if name == "parquet":
        found = images_of(output)
    elif name == "folder":
        found = {path.stem: path.read_bytes() for path in output.glob("*/*/*")}
    else:
        found = {}
        for path in output.glob("*/*.tar"):
            with tarfile.open(path) as tar:
                members = [member for member in tar if not member.name.endswith((".cls", ".json"))]
                found |= {member.name.partition(".")[0]: tar.extractfile(member).read() for member in members}
    assert set(found) == set(filled.rows)
    for one, image in found.items():
        row = filled.rows[one]
        if row["source"] == "generative":
            assert source_type(image) == TYPES[bool(row["reference_id"])]
            np.testing.assert_array_equal(decode_image(image), filled.pixels(one))
        else:
            assert image == row["image"]


def test_marks_are_never_written_into_the_table(filled: Filled, exported):
    exported("parquet")
    stored = filled.workspace.fetch(list(filled.rows), ["image"]).to_pylist()
    assert {row["id"]: row["image"] for row in stored} == {one: row["image"] for one, row in filled.rows.items()}


def test_without_a_key_the_card_and_the_outcome_say_xmp_only(exported):
    outcome = exported("parquet")
    assert "C2PA manifests were not written, since no key was given" in outcome.marks
    assert outcome.marks in (outcome.output / "README.md").read_text("utf-8")


@pytest.fixture(scope="module")
def signed(filled: Filled, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], Path]:
    """Images of an export that a credential of the user's signed, and the file of its chain."""
    pytest.importorskip("c2pa")
    folder = tmp_path_factory.mktemp("signed")
    key, chain = make_test_credential()
    (folder / "key.pem").write_bytes(key)
    (folder / "chain.pem").write_bytes(chain)
    command = ["export", "--workspace", filled.workspace.uri, "--output", str(folder / "out"), "--no-audit"]
    keys = ["--c2pa-key", str(folder / "key.pem"), "--c2pa-chain", str(folder / "chain.pem")]
    assert main([*command, *keys]) == 0
    return images_of(folder / "out"), folder / "chain.pem"


def manifest_of(image: bytes, trust: str = "") -> tuple[str, dict]:
    import c2pa

    mime = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}[suffix_of(image)]
    context = c2pa.Context.from_dict({"trust": {"trust_anchors": trust}} if trust else {})
    reader = c2pa.Reader(mime, io.BytesIO(image), context=context)
    stored = json.loads(reader.json())
    return reader.get_validation_state(), stored["manifests"][stored["active_manifest"]]


def test_manifests_are_valid_trusted_by_their_root_and_change_no_pixel(filled: Filled, signed):
    images, chain = signed
    root = "-----BEGIN" + chain.read_text().split("-----BEGIN")[2]
    seen = set()
    for one, image in images.items():
        row = filled.rows[one]
        if row["source"] != "generative":
            assert image == row["image"]
            continue
        kind = suffix_of(image), bool(row["reference_id"])
        np.testing.assert_array_equal(decode_image(image), filled.pixels(one))
        if kind in seen:
            continue
        seen.add(kind)
        assert manifest_of(image)[0] == "Valid"
        state, manifest = manifest_of(image, root)
        assert state == "Trusted"
        assertions = {each["label"]: each["data"] for each in manifest["assertions"]}
        (action,) = next(data["actions"] for label, data in assertions.items() if label.startswith("c2pa.actions"))
        assert action["action"] == "c2pa.created"
        assert action["digitalSourceType"].rpartition("/")[2] == TYPES[bool(row["reference_id"])]
        assert assertions["org.imagefoundry.recipe"]["id"] == one
        assert source_type(image) == TYPES[bool(row["reference_id"])]
    assert {suffix for suffix, _ in seen} == {"png", "jpg", "webp"}
    assert any(composite for _, composite in seen)


def test_a_changed_byte_makes_a_manifest_invalid(filled: Filled, signed):
    images, _ = signed
    one = next(one for one, row in filled.rows.items() if row["image_format"] == "png")
    image = bytearray(images[one])
    place = image.rindex(b"IDAT") + 10
    image[place] ^= 1
    assert manifest_of(bytes(image))[0] == "Invalid"


def test_signing_repeats_only_pixels_and_statements(filled: Filled):
    pytest.importorskip("c2pa")
    signer = Signer(*make_test_credential())
    one, row = next((one, row) for one, row in filled.rows.items() if row["image_format"] == "png")
    twice = [signer.sign(add_xmp(row["image"], packet(PLAIN)), PLAIN, {"id": one}) for _ in range(2)]
    for image in twice:
        signer.check(image)
        np.testing.assert_array_equal(decode_image(image), filled.pixels(one))


def test_a_test_credential_says_that_nobody_trusts_it(filled: Filled, tmp_path: Path):
    pytest.importorskip("c2pa")
    config = ExportConfig(
        workspace=filled.workspace.uri,
        output=tmp_path / "out",
        where="image_format = 'jpeg'",
        c2pa_test_credential=True,
        audit=False,
    )
    outcome = export_images(config)
    assert "signed by a test credential that no reader trusts" in outcome.marks
    assert manifest_of(next(iter(images_of(tmp_path / "out").values())))[0] == "Valid"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"key": b"no key", "chain": b"no chain"}, "the C2PA key or its chain is refused"),
        ({"key": b"no key"}, "a C2PA key and its certificate chain belong together"),
        ({"key": None, "chain": None}, "cannot be read"),
    ],
)
def test_a_bad_key_is_one_sentence_and_nothing_is_written(
    filled: Filled, tmp_path: Path, capsys, files: dict, message: str
):
    pytest.importorskip("c2pa")
    flags = []
    for name, content in files.items():
        path = tmp_path / f"{name}.pem"
        if content is not None:
            path.write_bytes(content)
        flags += [f"--c2pa-{name}", str(path)]
    assert main(["export", "--workspace", filled.workspace.uri, "--output", str(tmp_path / "out"), *flags]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()
