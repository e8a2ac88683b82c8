"""The ids that the writer knows: those of the table, those that it wrote since, and no others."""

from engine.serving.known_ids import KnownIds
from engine.store import Workspace
from tests.store.helpers import add, image_rows, recipe_ids


def test_ids_of_the_table_and_ids_written_since_are_known(workspace: Workspace):
    add(workspace, image_rows(range(3)))
    known = KnownIds(workspace)
    add(workspace, image_rows(range(3, 5)))
    known.add(recipe_ids([3, 4]))
    assert known.among(recipe_ids([4, 0, 9, 0])) == set(recipe_ids([0, 4]))
    assert known.among([]) == set()


def test_a_commit_that_landed_although_it_failed_is_known_after_reading_again(workspace: Workspace):
    known = KnownIds(workspace)
    add(workspace, image_rows(range(2)))
    known.read_again()
    assert known.among(recipe_ids([1, 2])) == set(recipe_ids([1]))
