"""The miniature world: a small image world rendered by code and written as ordinary webdataset folders."""
