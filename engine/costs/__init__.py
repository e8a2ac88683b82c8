"""Costs: a price book, busy and billed dollars of images and stages, and GenBench's cost tables."""

from engine.costs.genbench_tables import TABLE_5_NOTE, genbench_figure_3, genbench_table_1, genbench_table_5
from engine.costs.ledger import attribute_billed, billed_usd, summarise, summarise_stages, totals
from engine.costs.prices import Instance, LabelPrice, PriceBook, usd_per_device_second

__all__ = [
    "TABLE_5_NOTE",
    "Instance",
    "LabelPrice",
    "PriceBook",
    "attribute_billed",
    "billed_usd",
    "genbench_figure_3",
    "genbench_table_1",
    "genbench_table_5",
    "summarise",
    "summarise_stages",
    "totals",
    "usd_per_device_second",
]
