"""A generator of a known pipeline class is one row of data: no code, no test and no table besides names it."""

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.models import encoder_names, generator_names, generator_spec, load_encoder
from engine.models.registry import VARIABLE
from engine.testing.contract import check_generator

ROOT = Path(__file__).parents[2]
XL = """
[generators.my-xl]
pipeline = "StableDiffusionXLPipeline"
source = "me/my-xl"
num_inference_steps = 4
guidance_scale = 2.0
height = 1024
width = 1024
reference_modes = ["ip_adapter", "img2img"]
reference_scales = { ip_adapter = 0.7 }
licence = "MIT"
levers = { lossy = ["tiny_vae"] }
[generators.my-xl.auxiliaries]
ip_adapter = { source = "me/adapter", subfolder = "mine", weights = "adapter.safetensors" }
image_encoder = { source = "me/adapter", subfolder = "mine/encoder" }
tiny_vae = { source = "me/tiny" }
"""
UNGUIDED = """
[generators.my-flux]
pipeline = "FluxPipeline"
source = "me/my-flux"
guidance_scale = 0.0
reference_modes = ["img2img"]
"""


@pytest.fixture
def register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Writes a registry of the user's own and makes it known."""

    def write(text: str) -> Path:
        path = tmp_path / f"registry{len(list(tmp_path.glob('*.toml')))}.toml"
        path.write_text(text)
        monkeypatch.setenv(VARIABLE, str(path))
        return path

    return write


@pytest.mark.parametrize(("name", "row"), [("my-xl", XL), ("my-flux", UNGUIDED)])
def test_a_row_from_outside_keeps_the_contract(name: str, row: str, register: Callable[[str], Path], tmp_path: Path):
    assert name not in generator_names()
    register(row)
    assert name in generator_names()
    check_generator(name, tmp_path)


def test_a_row_from_outside_is_a_spec_like_any_other(register: Callable[[str], Path]):
    register(XL)
    assert "sd21" in generator_names()
    spec = generator_spec("my-xl", speed="lossy")
    assert (spec.source, spec.height, spec.reference_modes) == ("me/my-xl", 1024, {"ip_adapter": 0.7, "img2img": 0.4})
    fields = spec.recipe_fields("a" * 32)
    assert fields["revision"] == "main+ip_adapter@main+image_encoder@main+lossy"
    environment = {**os.environ, "COLUMNS": "200"}
    listed = subprocess.run(
        [sys.executable, "-m", "engine", "models"], capture_output=True, text=True, check=True, env=environment
    ).stdout
    assert re.search(r" my-xl .*StableDiffusionXLPipeline.*ip_adapter, img2img.*MIT", listed)


def test_an_encoder_can_be_registered_too(register: Callable[[str], Path], tiny_encoder: str):
    register(f'[encoders.mine]\nsource = "{tiny_encoder}"\n')
    assert "mine" in encoder_names()
    assert load_encoder("mine").name.startswith("mine@")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('pipeline = "FluxPipeline"\nsource = "me/mine"\nguidence_scale = 2.0', "did you mean guidance_scale"),
        ('source = "me/mine"', "generator mine has no pipeline; add it"),
        ('pipeline = "DiTPipeline"\nsource = "me/mine"', "pipeline class 'DiTPipeline' is not supported"),
        (
            'pipeline = "FluxPipeline"\nsource = "me/mine"\nreference_modes = ["native"]',
            "FluxPipeline does not support reference mode 'native'; choose from: controlnet",
        ),
        ('pipeline = "FluxPipeline"\nsource = "me/mine"\ndtype = "float15"', "unknown dtype 'float15'"),
        ('pipeline = "FluxPipeline"\nsource = "me/mine"\nlevers = { fast = ["compiled"] }', "unknown lever 'compiled'"),
        ('pipeline = "FluxPipeline"\nsource = "me/mine"\nlevers = { faster = [] }', "unknown speed 'faster'"),
        (
            'pipeline = "FluxPipeline"\nsource = "me/mine"\nreference_modes = ["redux"]',
            "generator mine lists reference mode 'redux' without auxiliary redux; add it to auxiliaries",
        ),
        (
            'pipeline = "FluxPipeline"\nsource = "me/mine"\nauxiliaries = { redux = { sorce = "me/redux" } }',
            "unknown field 'sorce'; did you mean source",
        ),
        (
            'pipeline = "FluxPipeline"\nsource = "me/mine"\nauxiliaries = { redux = { revision = "main" } }',
            "generator mine has no source of auxiliary redux; add it",
        ),
    ],
)
def test_an_invalid_row_is_one_sentence(row: str, message: str, register: Callable[[str], Path]):
    register(f"[generators.mine]\n{row}\n")
    with pytest.raises(ValueError, match=message) as caught:
        generator_spec("mine")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[generators.sd21]\n", "has an entry 'sd21', a name that is taken"),
        ("[generator.mine]\n", "unknown table 'generator'; did you mean generators"),
        ("[generators.mine", "which is not a readable TOML file"),
    ],
)
def test_an_invalid_file_is_one_sentence(text: str, message: str, register: Callable[[str], Path]):
    register(text)
    with pytest.raises(ValueError, match=message) as caught:
        generator_names()
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_sentence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, "nowhere.toml")
    with pytest.raises(
        ValueError, match=r"IMAGEFOUNDRY_REGISTRY names nowhere\.toml, which is not a readable TOML file"
    ):
        generator_names()


def _code() -> list[Path]:
    """Every Python file, notebook, shell script and Makefile of the repository outside tests and docs."""
    folders = ("engine", "jobs", "serve", "benchmarks", "deploy", "notebooks")
    found = [path for folder in folders for end in ("py", "ipynb", "sh") for path in (ROOT / folder).rglob(f"*.{end}")]
    return [*found, ROOT / "Makefile"]


def test_no_code_names_a_generator_that_is_one_row():
    classes = Counter(generator_spec(name).pipeline for name in generator_names())
    first = {generator_spec(name).pipeline: name for name in reversed(generator_names())}
    rows = [
        name
        for name in generator_names()
        if classes[generator_spec(name).pipeline] > 1 and first[generator_spec(name).pipeline] != name
    ]
    assert set(rows) >= {"sdxl-turbo", "sdxl-lightning", "sd35", "flux-schnell"}
    rows.remove("sd21")  # GenBench's generator: its networks are built at full size in benchmarks/gpu/generate.py
    code = {path: path.read_text("utf-8") for path in _code()}
    assert len(code) > 150
    naming = {
        (name, str(path.relative_to(ROOT)))
        for name in rows
        for path, text in code.items()
        if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text)
    }
    assert naming == set()
