"""Layouts of labelled images in folders, one file each; `LAYOUTS` lists them in the order in which they are tried."""

from engine.catalog.layouts.class_folders import ClassFolders
from engine.catalog.layouts.img2dataset import Img2Dataset
from engine.catalog.layouts.layout import Layout
from engine.catalog.layouts.listed_labels import ListedLabels
from engine.catalog.layouts.tables import ImageTables
from engine.catalog.layouts.webdataset import WebDataset

LAYOUTS: tuple[type[Layout], ...] = (Img2Dataset, WebDataset, ImageTables, ListedLabels, ClassFolders)

__all__ = ["LAYOUTS", "Layout"]
