"""`imagefoundry keys add`, `list` and `revoke`: the API keys of a server."""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from rich.table import Table

Place = Annotated[str, tyro.conf.arg(metavar="WORKSPACE")]


@dataclass(frozen=True, kw_only=True)
class AddKey:
    """Make a key and print it. It is shown only this once: the workspace keeps its hash."""

    workspace: Place = "workspace/serve"
    """Folder or s3://bucket/prefix of the server's workspace; it is made if it does not exist."""
    name: str
    """Name of the key, such as that of its user."""
    rate_per_minute: int | None = None
    """Images per minute; no limit if not given."""
    budget_usd: float | None = None
    """US dollars that its images may cost in all; no limit if not given."""

    def run(self) -> int:
        """Prints the key alone on stdout, for scripts, and what it is on stderr. Raises ValueError for invalid values."""
        from engine.serving.keys import add_key
        from engine.store import Workspace

        workspace = Workspace.open(self.workspace)
        key, key_id = add_key(workspace, self.name, self.rate_per_minute, self.budget_usd)
        print(key)
        print(
            f"This is the key {self.name} ({key_id}) of workspace {workspace.uri}. Keep it: it is not shown again.",
            file=sys.stderr,
        )
        return 0


@dataclass(frozen=True, kw_only=True)
class ListKeys:
    """List the keys with their limits and the dollars that they have spent."""

    workspace: Place = "workspace/serve"
    """Folder or s3://bucket/prefix of the server's workspace."""

    def run(self) -> int:
        """Prints the table. Raises ValueError if there is no workspace."""
        from engine.cli.say import table
        from engine.serving.admission import spent_from
        from engine.serving.keys import list_keys
        from engine.store import Workspace

        workspace = Workspace.open(self.workspace, create=False)
        rows, spent = list_keys(workspace), spent_from(workspace)
        if rows or spent:
            table(self, _table(rows, spent))
        else:
            print("No keys yet.")
        return 0


@dataclass(frozen=True, kw_only=True)
class RevokeKey:
    """Revoke a key. Running servers refuse it within a second; its images stay."""

    key: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME_OR_ID")]
    """Name or id of the key."""
    workspace: Place = "workspace/serve"
    """Folder or s3://bucket/prefix of the server's workspace."""

    def run(self) -> int:
        """Prints which key was revoked. Raises ValueError if there is no such key."""
        from engine.serving.keys import revoke_key
        from engine.store import Workspace

        print(f"Revoked {revoke_key(Workspace.open(self.workspace, create=False), self.key)}.")
        return 0


KeysConfig = (
    Annotated[AddKey, tyro.conf.subcommand("add")]
    | Annotated[ListKeys, tyro.conf.subcommand("list")]
    | Annotated[RevokeKey, tyro.conf.subcommand("revoke")]
)


def keys(config: AddKey | ListKeys | RevokeKey) -> int:
    """Runs one subcommand; returns its exit code."""
    return config.run()


def _table(rows: list[dict[str, Any]], spent: dict[str, float]) -> "Table":
    """One row per key of the table, and one per other key that has spent something, such as the server's own."""
    from rich.table import Table
    from rich.text import Text

    from engine.reports.tables import format_usd

    table = Table(title="Keys", title_justify="left", box=None, padding=(0, 1), header_style="dim")
    for name in ("Id", "Name", "Made", "State", "Images per minute", "Budget", "Spent"):
        is_number = name in ("Images per minute", "Budget", "Spent")
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        budget, rate = row["budget_usd"], row["rate_per_minute"]
        table.add_row(
            row["key_id"],
            Text(row["name"]),  # a name with brackets is not taken for markup
            f"{row['created_at']:%Y-%m-%d %H:%M:%S}",
            "revoked" if row["revoked"] else "valid",
            f"{rate:,}" if rate else "no limit",
            format_usd(budget) if budget else "no limit",
            format_usd(spent.get(row["key_id"], 0.0)),
        )
    listed = {row["key_id"] for row in rows}
    for key_id in sorted(set(spent) - listed):
        table.add_row(Text(key_id), "–", "–", "not in the table", "no limit", "no limit", format_usd(spent[key_id]))
    return table
