"""Every error that a user may see says the next step: one sentence, what is wrong and how to fix it."""

import ast
import re
from pathlib import Path

ENGINE = Path(__file__).parents[1] / "engine"
STEP = re.compile(
    r"[;]|\b(give|use|run|install|set|make|write|name|leave|remove|add|call|needs?|start|mean)\b|_name\(|--"
)
"""A second clause, or a verb that asks for something."""
PASSED_ON = (
    "catalog/caption_tables.py",  # reasons of files, counted in a report
    "catalog/corpus.py",
    "catalog/datasets.py",
    "catalog/index.py",
    "catalog/labels.py",
    "catalog/written_prompts.py",
    "cli/show.py",
    "dataflow/apply.py",
    "export/credentials.py",  # a constant with the command
    "images.py",  # reasons of single images, kept as rows of errors
    "models/generator.py",
    "serving/entry.py",
    "store/schemas.py",  # a program's mistake
    "testing/makers.py",
)
"""Files with errors that carry a sentence of another place, or whose reader is a row of a table."""


def test_every_error_says_the_next_step():
    silent = []
    for path in sorted(ENGINE.rglob("*.py")):
        name = path.relative_to(ENGINE).as_posix()
        text = path.read_text("utf-8")
        for node in ast.walk(ast.parse(text)):
            if not (isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)):
                continue
            if getattr(node.exc.func, "id", "") not in ("ValueError", "RunFailed") or name in PASSED_ON:
                continue
            said = ast.get_source_segment(text, node.exc) or ""
            if not STEP.search(said):
                silent.append(f"{name}:{node.lineno}: {said}")
    assert silent == []
