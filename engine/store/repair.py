"""Removal of damaged and duplicate rows from a workspace, so that the next run makes them again."""

from typing import TYPE_CHECKING, Any

from engine.store.verify import VerifyReport

if TYPE_CHECKING:
    from engine.store.workspace import Workspace

ADDRESSES_PER_DELETE = 1_000


def remove_damage(workspace: "Workspace", report: VerifyReport) -> None:
    """Drops unreadable fragments and wrong rows; the lock must have been held since the report was made."""
    for name, fragments in report.fragments.items():
        if fragments:
            with workspace.writing(name) as table:
                _drop_fragments(table, fragments)
    for name, addresses in report.addresses.items():
        for start in range(0, len(addresses), ADDRESSES_PER_DELETE):
            chosen = ", ".join(str(address) for address in addresses[start : start + ADDRESSES_PER_DELETE])
            with workspace.writing(name) as table:
                table.delete(f"_rowaddr IN ({chosen})")
    report.repaired = True


def _drop_fragments(table: Any, fragments: list[int]) -> None:
    import lance

    # `delete` would read the files to find the rows
    operation = lance.LanceOperation.Delete([], fragments, "false")
    lance.LanceDataset.commit(table, operation, read_version=table.version)
