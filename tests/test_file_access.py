"""Who may touch files: outputs are written by the stores alone, and jobs and plans know no paths of their own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import comic_upscale

PACKAGE = Path(comic_upscale.__file__).parent

# Rooms that write outputs through the stores, and not otherwise.
NO_WRITING = ("jobs", "planning", "execution", "reporting")
# Rooms that do not even look at files: what they ask, they ask a store.
NO_LOOKING = ("jobs", "planning")

WRITES = {
    "unlink", "rename", "renames", "mkdir", "makedirs", "rmdir", "removedirs", "rmtree", "write_bytes", "write_text",
    "touch", "symlink_to", "hardlink_to", "symlink", "link", "chmod", "truncate", "copyfile", "copytree", "copy2",
    "move", "NamedTemporaryFile", "TemporaryFile", "TemporaryDirectory", "mkstemp", "mkdtemp", "write_whole",
    "open_part",
}  # fmt: skip
LOOKS = {
    "exists", "is_file", "is_dir", "is_symlink", "stat", "lstat", "iterdir", "resolve", "read_bytes", "read_text",
}  # fmt: skip
"""Methods of a path, told from those of a store by having no argument."""
LOOKS_ANYHOW = {
    "lexists", "realpath", "samefile", "scandir", "listdir", "glob", "rglob", "isdir", "isfile", "getsize", "access",
}  # fmt: skip

# (module, function, call): why it may.
EXCEPTIONS = {
    ("execution/ssh/host_keys.py", "_remember", "mkdir"): "the user's known hosts, which are no output",
    (
        "execution/ssh/host_keys.py",
        "_remember",
        "open to write",
    ): "the user's known hosts, which are no output",
    (
        "execution/ray/actor.py",
        "_with_weights",
        "TemporaryDirectory",
    ): "weights of the user, which are no output",
    (
        "planning/discovery.py",
        "_outputs_again",
        "is_file",
    ): "the input, and the ledger of another job, are no outputs",
    ("planning/preview.py", "preview", "is_file"): "the ledger is no output",
    ("execution/ray/actor.py", "_with_weights", "mkdir"): "weights of the user, which are no output",
    ("execution/ray/actor.py", "_with_weights", "write_bytes"): "weights of the user, which are no output",
    ("planning/output_marks.py", "_pages_of", "open to read"): "replaced originals, which are local files",
    ("planning/output_marks.py", "_size_of", "open to read"): "replaced originals, which are local files",
    ("planning/plan.py", "make_plan", "touch"): "the ledger's own, which notes the time of a source",
    ("reporting/export.py", "write_export", "write_whole"): "an export goes where the user says",
    ("reporting/report.py", "write_report", "write_whole"): "a report goes where the user says",
}


def calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    """Every call of a module, with the innermost function that it is in."""

    def walk(node: ast.AST, function: str) -> Iterator[tuple[str, ast.Call]]:
        for child in ast.iter_child_nodes(node):
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            if isinstance(child, ast.Call):
                yield function, child
            yield from walk(child, child.name if inside else function)  # type: ignore[attr-defined]

    return walk(tree, "")


def name_of(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def mode_of(call: ast.Call) -> str:
    """The mode that a call to some `open` gives as a literal; empty where it gives none."""
    given = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    texts = [each.value for each in given if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    return next((text for text in texts if text and set(text) <= set("rwaxbt+")), "")


def writing(call: ast.Call) -> str | None:
    """What a call writes by; None if it writes no file."""
    name = name_of(call)
    if name in WRITES:
        return name
    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    if name in ("remove", "replace") and isinstance(owner, ast.Name) and owner.id == "os":
        return name
    # A text's replace has two arguments, that of a data class or a date has names.
    if name == "replace" and owner is not None and len(call.args) == 1 and not call.keywords:
        return name
    return "open to write" if name in ("open", "fdopen") and set(mode_of(call)) & set("wax+") else None


def looking(call: ast.Call) -> str | None:
    """What a call looks at a file by; None if it looks at none."""
    name = name_of(call)
    if name in LOOKS_ANYHOW or (name in LOOKS and not call.args and not call.keywords):
        return name
    return "open to read" if name == "open" and "r" in mode_of(call) else None


def modules(*rooms: str) -> list[str]:
    return sorted(
        path.relative_to(PACKAGE).as_posix() for room in rooms for path in (PACKAGE / room).rglob("*.py")
    )


def found(module: str, what: object) -> set[tuple[str, str, str]]:
    tree = ast.parse((PACKAGE / module).read_text(encoding="utf-8"))
    return {(module, function, seen) for function, call in calls(tree) if (seen := what(call))}  # type: ignore[operator]


@pytest.mark.parametrize("module", modules(*NO_WRITING))
def test_outputs_are_written_by_the_stores_alone(module: str) -> None:
    assert not found(module, writing) - EXCEPTIONS.keys()


@pytest.mark.parametrize("module", modules(*NO_LOOKING))
def test_jobs_and_plans_ask_a_store_and_not_the_disk(module: str) -> None:
    assert not found(module, looking) - EXCEPTIONS.keys()


def test_no_exception_is_left_over() -> None:
    seen = set[tuple[str, str, str]]()
    for module in modules(*NO_WRITING):
        seen |= found(module, writing)
    for module in modules(*NO_LOOKING):
        seen |= found(module, looking)
    assert EXCEPTIONS.keys() <= seen


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("path.unlink(missing_ok=True)", "unlink"),
        ("part.replace(target)", "replace"),
        ("os.replace(part, target)", "replace"),
        ("text.replace('a', 'b')", None),
        ("replace(page, output=name)", None),
        ("path.open('wb')", "open to write"),
        ("open(path, mode='r+b')", "open to write"),
        ("path.open('rb')", None),
        ("outputs.open(name)", None),
    ],
)
def test_what_counts_as_writing(line: str, what: str | None) -> None:
    call = ast.parse(line).body[0].value  # type: ignore[attr-defined]
    assert writing(call) == what
