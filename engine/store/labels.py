"""The columns of images that have several labels; null where an image has one, the class of its recipe."""

import pyarrow as pa

LABEL_COLUMNS = pa.schema([("label_indices", pa.list_(pa.int32())), ("label_names", pa.list_(pa.string()))])
"""Class indices in ascending order and the names of these classes; both empty for an image that shows no class of its data set."""
