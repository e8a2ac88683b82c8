"""The miniature world: a small image world drawn by code, written as ordinary webdataset folders."""
