import subprocess
import sys
from pathlib import Path

import pytest

from engine.costs import Instance, PriceBook, usd_per_device_second
from engine.sources.kinds import SOURCE_KINDS

GOOD = """
[defaults]
cpu = "small"
gpu = "big"
[instances.small]
usd_per_hour = 0.36
num_gpus = 0
num_cpus = 4
accelerator = ""
source = "invoice"
date = "2026-01-01"
[instances.big]
usd_per_hour = 36
num_gpus = 8
num_cpus = 64
accelerator = "H100"
source = "invoice"
date = "2026-01-01"
[labels.original]
usd_per_image = 0.5
source = "invoice"
date = "2026-01-01"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "prices.toml"
    path.write_text(text)
    return path


def test_the_shipped_book_has_the_papers_prices() -> None:
    book = PriceBook.load()
    assert book.instance("azure-nc24ads-a100-v4-spot").usd_per_hour == 1.47
    assert book.instance("azure-e32ads-v5-spot").usd_per_hour == 0.21
    assert book.usd_per_label("original") == 0.012
    assert book.usd_per_label("generative") == book.usd_per_label("retrieval") == 0


def test_every_figure_has_a_source_and_a_date() -> None:
    book = PriceBook.load()
    entries = [*book.instances.values(), *book.labels.values(), *book.storage.values()]
    assert all(entry.source and entry.date[:2] == "20" for entry in entries)


@pytest.mark.parametrize(
    ("device", "instance"),
    [
        (None, "aws-r6i-8xlarge"),
        ("", "aws-r6i-8xlarge"),
        ("A100", "aws-p4d-24xlarge"),
        ("NVIDIA A100-SXM4-80GB", "aws-p4d-24xlarge"),
        ("NVIDIA H100 80GB HBM3", "aws-p5-48xlarge"),
        ("h200", "aws-p5en-48xlarge"),
    ],
)
def test_a_device_has_a_default_instance(device: str | None, instance: str) -> None:
    assert PriceBook.load().for_device(device).name == instance


def test_the_default_prices_have_one_basis() -> None:
    """Dollars of different cards compare only if all are on demand and of one cloud and region."""
    book = PriceBook.load()
    defaults = [book.instance(name) for name in book.defaults.values()]
    assert {each.basis for each in defaults} == {"on demand"}
    assert all("(AWS us-east-1, on demand)" in each.source for each in defaults)
    assert all(each.basis in ("on demand", "spot") for each in book.instances.values())
    assert {book.instance(row.instance).basis for row in book.genbench.values() if row.instance} == {"spot"}


def test_an_unknown_gpu_is_priced_as_the_fallback_and_says_so() -> None:
    with pytest.warns(UserWarning, match="no default for 'NVIDIA GH100X'; it is priced as aws-p4d"):
        assert PriceBook.load().for_device("NVIDIA GH100X").name == "aws-p4d-24xlarge"


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"no instance 'aws-p5-48large'; the nearest are aws-p5-48xlarge"):
        PriceBook.load().instance("aws-p5-48large")
    with pytest.raises(ValueError, match="no label price 'generated'; the nearest are generative"):
        PriceBook.load().usd_per_label("generated")


@pytest.mark.parametrize(
    ("held", "usd"),
    [
        ({"num_gpus": 1}, 36 / 3600 / 8),  # one of eight GPUs
        ({"num_gpus": 0.5, "num_cpus": 60}, 36 / 3600 / 16),  # the GPU share counts, its vCPUs come with it
        ({"num_cpus": 16}, 36 / 3600 / 4),  # a quarter of the vCPUs
        ({}, 0.0),
        ({"num_gpus": 8}, 0.01),  # the whole node
    ],
)
def test_a_second_costs_the_share_of_the_node(held: dict[str, float], usd: float, tmp_path: Path) -> None:
    big = PriceBook.load(write(tmp_path, GOOD)).instance("big")
    assert usd_per_device_second(big, **held) == pytest.approx(usd)


def test_a_gpu_stage_on_a_node_without_gpus_costs_its_cpus(tmp_path: Path) -> None:
    small = PriceBook.load(write(tmp_path, GOOD)).instance("small")
    assert usd_per_device_second(small, num_gpus=1, num_cpus=1) == pytest.approx(0.36 / 3600 / 4)


@pytest.mark.parametrize("held", [{"num_gpus": -1}, {"num_cpus": float("nan")}])
def test_a_share_that_cannot_be_is_refused(held: dict[str, float]) -> None:
    node = Instance(name="n", usd_per_hour=1, num_gpus=1, num_cpus=1, accelerator="", source="", date="")
    with pytest.raises(ValueError, match="a stage cannot hold"):
        usd_per_device_second(node, **held)


def test_a_book_without_storage_and_the_papers_tables_is_fine(tmp_path: Path) -> None:
    book = PriceBook.load(write(tmp_path, GOOD))
    assert not book.storage
    assert not book.genbench


def test_storage_is_priced_by_the_month(tmp_path: Path) -> None:
    shelf = '[storage.shelf]\nusd_per_gb_month = 0.01\nsource = "invoice"\ndate = "2026-01-01"\n'
    assert PriceBook.load(write(tmp_path, GOOD + shelf)).storage["shelf"].usd_per_gb_month == 0.01
    with pytest.raises(ValueError, match=r"storage.shelf.usd_per_gb_month is -0.01; give a finite number"):
        PriceBook.load(write(tmp_path, GOOD + shelf.replace("0.01", "-0.01")))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("usd_per_hour = 36", "usd_per_hour = -1", r"instances.big.usd_per_hour is -1; give a finite number"),
        ("usd_per_hour = 36", "usd_per_hour = nan", r"usd_per_hour is nan"),
        ("usd_per_hour = 36", "usd_per_hour = inf", r"usd_per_hour is inf"),
        ("usd_per_hour = 36", 'usd_per_hour = "36"', r"usd_per_hour is '36'"),
        ("usd_per_hour = 36", "usd_per_hour = true", r"usd_per_hour is True"),
        ("usd_per_hour = 36", "", r"instances.big lacks usd_per_hour"),
        ("usd_per_hour = 36", "usd_per_hour = 36\nusd_per_day = 1", r"unknown key 'usd_per_day'"),
        ("usd_per_hour = 36", "usd_per_hour = = 36", r"is not valid TOML"),
        ("usd_per_image = 0.5", "usd_per_image = -0.5", r"labels.original.usd_per_image is -0.5"),
        ("num_cpus = 4", "num_cpus = 0", r"instances.small.num_cpus is 0"),
        ('date = "2026-01-01"', "date = 2026-01-01", r"date is datetime.date\(2026, 1, 1\); give text"),
        ('cpu = "small"', 'cpu = "tiny"', r"defaults.cpu names 'tiny', which is not in its instances"),
        ('cpu = "small"', "", r"defaults lacks cpu"),
        ("[labels.original]", "[label.original]", r"lacks labels; add it"),
        ("[instances.small]", "[instances]\nsmall = 3\n[instances.smaller]", r"instances.small is 3"),
        ("[defaults]", "[default]\n[defaults]", r"unknown key 'default'; it may have defaults"),
    ],
)
def test_a_bad_book_is_refused_in_one_sentence(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert old in GOOD
    with pytest.raises(ValueError, match=message) as caught:
        PriceBook.load(write(tmp_path, GOOD.replace(old, new)))
    assert "\n" not in str(caught.value)


def test_a_book_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        PriceBook.load(tmp_path / "none.toml")
    with pytest.raises(ValueError, match="cannot be read"):
        PriceBook.load(tmp_path)


def test_importing_costs_is_cheap() -> None:
    code = "import sys, engine.costs, engine.reports; print([m for m in ('torch', 'polars', 'matplotlib') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_book_need_not_price_labels_that_nobody_writes(tmp_path: Path) -> None:
    book = (Path(__file__).parents[2] / "docs" / "how-to.md").read_text().split("```toml\n", 1)[1].split("```", 1)[0]
    (tmp_path / "book.toml").write_text(book)
    prices = PriceBook.load(tmp_path / "book.toml")
    assert {kind.name: kind.usd_per_label(prices) for kind in SOURCE_KINDS} == {
        "generative": 0.0,
        "injected": 0.0,
        "retrieval": 0.0,
        "original": 0.03,
    }
    with pytest.raises(ValueError, match="no label price 'generative'"):
        prices.usd_per_label("generative")
    assert prices.for_device(None).usd_per_hour == 1.10
