"""The same workspace on an object store: a local S3 server stands in for the bucket."""

from datetime import timedelta

import numpy as np
import pytest

from engine.store import Workspace

from .helpers import add, error_rows, image_rows, recipe_ids


def test_a_workspace_lives_in_a_bucket(s3_workspace):
    with pytest.raises(ValueError, match="there is no workspace at"):
        Workspace.open(s3_workspace.uri + "-none", create=False)
    s3_workspace.ensure_encoder("a", 4)
    vectors = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    add(s3_workspace, image_rows(range(10), a=vectors[:10]))
    add(s3_workspace, image_rows(range(10, 20)))
    add(s3_workspace, error_rows(range(2)), "errors")
    assert s3_workspace.ids_without("a", recipe_ids(range(20))) == recipe_ids(range(10, 20))
    s3_workspace.fill_embeddings("a", recipe_ids(range(10, 20)), vectors[10:])
    with s3_workspace.lock("run"):
        s3_workspace.build_indices()
        s3_workspace.compact(keep_versions_for=timedelta(0))
    again = Workspace.open(s3_workspace.uri, create=False)
    assert (again.count(), len(again.done_ids()), again.errors().num_rows) == (20, 20, 2)
    assert again.search(vectors[13], "a", k=1)["seed"].to_pylist() == [13]
    assert again.fetch(recipe_ids([7, 99, 3]), ["image"])["image"].to_pylist() == [b"image 7", b"image 3"]


def test_a_bucket_that_is_not_there_is_refused_in_one_sentence(bucket):
    with pytest.raises(ValueError, match=r"cannot (open|write) a? ?workspace"):
        Workspace.open("s3://no-such-bucket/workspace")
