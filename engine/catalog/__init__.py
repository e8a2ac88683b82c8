"""Data sets: what they are (`datasets.toml`) and how their webdataset folders are read."""

from engine.catalog.datasets import Dataset, dataset_names, load_dataset

__all__ = ["Dataset", "dataset_names", "load_dataset"]
