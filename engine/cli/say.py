"""The lines that a command prints when it has ended: one function per kind of outcome, given the configuration and the result."""

from typing import Any

MOST_FINDINGS = 20
"""Damages that `verify` lists; the rest are counted."""


def nothing(config: Any, result: Any) -> None:
    """Prints nothing."""


def exit_code(config: Any, result: int) -> int:
    """The result is the exit code."""
    return result


def report(config: Any, result: Any) -> None:
    """A study's `Report`, and where its page and its workspace are."""
    result.print()
    print(f"\nReport: {(config.report / 'index.html').resolve()}\nWorkspace: {config.workspace}")


def checked(config: Any, result: Any) -> None:
    """The `Report` of checked data, and where its page is."""
    result.print()
    print(f"\nReport: {(config.report / 'index.html').resolve()}")


def rating(config: Any, result: Any) -> None:
    """The place of the rating sheets, or the report of the answers."""
    if result is not None:
        checked(config, result)
        return
    print(f"Sheets: {(config.folder / 'sheets').resolve()}")
    print("Each rater looks at NAME.html and fills in NAME.csv; then run again with --analyse.")


def database(config: Any, result: Any) -> None:
    """A `DatabaseReport`."""
    print(
        f"{result.planned:,} images planned: {result.made:,} added, {result.embedded:,} embedded by this encoder, "
        f"{result.errors:,} unreadable, the rest were present. Workspace: {config.workspace}"
    )
    for row in result.duplicates:
        print(
            f"  {row['datasets']}: {row['pictures']} distinct images occur {row['images']} times, {row['of several classes']} "
            "of them under several classes; retrieval and mining use each once"
        )


def corpus(config: Any, result: Any) -> None:
    """A `CorpusReport`."""
    print(
        f"Corpus {result.corpus}: {result.captions:,} captions, {result.added:,} of them added now, from {result.rows:,} rows. "
        f"Workspace: {config.workspace}"
    )
    for reason, number in result.left.items():
        print(f"  rows {reason}: {number:,}")
    for row in result.files.rows():
        print(f"  files {row['verdict']}{': ' + row['reason'] if row['reason'] else ''}: {row['count']:,}")
    if result.earlier:
        print(f"  {result.earlier:,} captions are of files that are no longer there, or of earlier versions of a file")


def fetched(config: Any, result: Any) -> int:
    """A list of `FetchedSet`; exit code 3 if a class has no picture at all."""
    for one in result:
        num = sum(map(len, one.kept))
        print(
            f"{one.dataset}: {num:,} pictures of {len(one.kept):,} classes, {one.fetched:,} of them fetched now; "
            f"{one.short:,} classes have fewer than {one.shots}"
        )
        for reason, count in one.reasons.items():
            print(f"  failed: {reason}: {count:,}")
    print(f"Workspace: {config.workspace}")
    return 3 if any(not found for one in result for found in one.kept) else 0


def embedded(config: Any, result: Any) -> None:
    """An `Embedded`."""
    print(
        f"{result.embedded:,} of {result.images:,} images embedded now by {config.encoder}, in the column {result.column}. "
        f"Workspace: {config.workspace}"
    )


def safety(config: Any, result: Any) -> None:
    """A `Checked`, with the condition that leaves flagged images out."""
    print(
        f"{result.checked:,} of {result.images:,} images checked now by {result.checker}; {result.flagged:,} of the {result.images:,} have a score "
        f"of 0.5 or more. An export without them: --where '{result.column} < 0.5'. Workspace: {config.workspace}"
    )


def negatives(config: Any, result: dict[str, Any]) -> None:
    """The counts of `mine_negatives`."""
    print(
        f"{result['mined']:,} generated images mined, {result['present']:,} were mined before, in database {result['name']} of "
        f"{result['images']:,} distinct images ({result['duplicates']:,} duplicates left out). Workspace: {config.workspace}"
    )


def damage(config: Any, result: Any) -> int:
    """A `VerifyReport`; exit code 1 if damage remains."""
    read = " and ".join(f"{count:,} rows of {name}" for name, count in result.rows.items())
    print(f"Read {read} in workspace {config.workspace}.")
    for finding in result.findings[:MOST_FINDINGS]:
        print(f"  {finding.table_name} {finding.place}: {finding.reason}")
    if len(result.findings) > MOST_FINDINGS:
        print(f"  and {len(result.findings) - MOST_FINDINGS:,} more")
    if not result.findings:
        print("Nothing is damaged.")
    elif result.repaired:
        print("The damage was removed; the next run makes these images again.")
    else:
        print("Run again with --repair to remove the damage.")
    return 0 if result.sound else 1


def status(config: Any, result: Any) -> None:
    """A `Status` as tables, or as JSON."""
    print(result.to_json()) if config.json else result.print()


def shown(config: Any, result: Any) -> None:
    """The recipes and costs of the images shown, and where the contact sheet is."""
    result.print()
    print(f"\nContact sheet: {result.page.resolve()}")


def diagnosis(config: Any, result: Any) -> int:
    """A `Diagnosis`; exit code 1 if there is a problem."""
    code: int = result.print()
    return code


def estimate(config: Any, result: Any) -> None:
    """An `Estimate`."""
    result.print()


def regenerated(config: Any, result: Any) -> int:
    """A `Regenerated`; exit code 1 if an image differs."""
    code: int = result.print()
    return code


def table(config: Any, result: Any) -> None:
    """A `rich` table; a pipe is as wide as the table needs."""
    from rich.console import Console

    console = Console()
    (console if console.is_terminal else Console(width=200)).print(result)


def exported(config: Any, result: Any) -> None:
    """An `Exported`."""
    splits = ", ".join(f"{count:,} {split}" for split, count in result.splits.items())
    print(
        f"Exported {sum(result.splits.values()):,} images ({splits}) of {result.num_classes:,} classes to {result.output}."
    )
    left_out = f"{result.num_left_out:,} images were left out by --where; " if config.where else ""
    print(f"{left_out}{result.num_errors:,} recipes could not be made and are not part of it.")
    print(result.marks)
    for reason in result.put_aside:
        print(f"Put aside: {reason}.")
    if result.unknown_licences:
        print(f"No licence is stated for {', '.join(result.unknown_licences)}; give it with --licence-of NAME=LICENCE.")
    for line in result.audit or result.safety:
        print(line)


def audited(config: Any, result: Any) -> None:
    """An `Audit` as sentences, or as JSON."""
    if config.json:
        import json

        print(json.dumps(result.as_dict(), indent=1))
        return
    for line in result.lines():
        print(line)


def folder(config: Any, result: Any) -> None:
    """The folder that was written."""
    print(f"Wrote {result}")


def world(config: Any, result: bool) -> None:
    """One line: the world was rendered, or was complete."""
    print(f"{'wrote' if result else 'already complete:'} {config.folder}")
