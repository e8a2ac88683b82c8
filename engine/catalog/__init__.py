"""Data sets: what they are (`datasets.toml`) and how folders of images are read, whatever their layout."""

from engine.catalog.datasets import (
    Dataset,
    DatasetFacts,
    dataset_licence,
    dataset_names,
    genbench_datasets,
    listed_class_names,
    load_dataset,
    published_datasets,
)

__all__ = [
    "Dataset",
    "DatasetFacts",
    "dataset_licence",
    "dataset_names",
    "genbench_datasets",
    "listed_class_names",
    "load_dataset",
    "published_datasets",
]
