"""GenBench's Tables 1 and 5 and the dollars of its Figure 3, recomputed beside the printed values."""

from typing import Any

from engine.costs.prices import PriceBook

TABLE_5_NOTE = (
    "GenBench's printed costs do not follow from the hours and prices printed beside them: 1.47 USD/h x 1.74 h / 1,000 "
    "images is 2.56e-3 USD per image where both tables print 2.54e-4, and 0.21 x 0.60 / 1,000 is 1.26e-4 where they "
    "print 3.93e-5. Figure 3's 208 USD for 500 generated images per common category is 819,000 x the misprinted 2.54e-4; its own "
    "hours and price make 2,095. Both columns are shown; dollars elsewhere in this report are measured, not taken from the paper."
)

FIGURE_3_IMAGES = 500 * 1638
"""Images of 500 shots per category of the common concepts (GenBench section 3.1 and Table 4)."""


def genbench_table_1(book: PriceBook | None = None) -> list[dict[str, Any]]:
    """GenBench Table 1, one row per source: collection, printed and recomputed USD per image, and their ratio."""
    return [
        {key: row[key] for key in ("source", "collection", "printed_usd_per_image", "usd_per_image", "ratio")}
        for row in genbench_table_5(book)
    ]


def genbench_table_5(book: PriceBook | None = None) -> list[dict[str, Any]]:
    """GenBench Table 5, one row per source: as Table 1, with the instance, its price per hour and the hours per 1,000 images.

    `usd_per_image` is price x hours / 1,000, or the price of a label where people do the work; `ratio` is
    `usd_per_image` / `printed_usd_per_image`. A book without `[genbench.…]` sections gives no rows.
    """
    book = book or PriceBook.load()
    rows = []
    for row in book.genbench.values():
        price = book.instance(row.instance).usd_per_hour if row.instance else None
        hours = row.hours_per_1000_images if row.instance else None
        cost = book.usd_per_label(row.name) if price is None or hours is None else price * hours / 1000
        printed = row.printed_usd_per_image
        rows.append(
            {
                "source": row.name,
                "collection": row.collection,
                "instance": row.instance or "-",
                "usd_per_hour": price,
                "hours_per_1000_images": hours,
                "printed_usd_per_image": printed,
                "usd_per_image": cost,
                "ratio": cost / printed if printed else None,
            }
        )
    return rows


def genbench_figure_3(book: PriceBook | None = None) -> list[dict[str, Any]]:
    """The dollars of Figure 3 at 500 shots of the common concepts, one row per source that it prices: printed and recomputed."""
    book = book or PriceBook.load()
    costs = {row["source"]: row["usd_per_image"] for row in genbench_table_5(book)}
    return [
        {
            "source": row.name,
            "images": FIGURE_3_IMAGES,
            "printed_usd": row.printed_figure_3_usd,
            "usd": FIGURE_3_IMAGES * costs[row.name],
            "ratio": FIGURE_3_IMAGES * costs[row.name] / row.printed_figure_3_usd,
        }
        for row in book.genbench.values()
        if row.printed_figure_3_usd
    ]
