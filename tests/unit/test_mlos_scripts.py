"""Script lines of mlos_bench trees: what stays as it was written, and what is found on the search path."""

from __future__ import annotations

from pathlib import Path

import pytest

from windtunnel.config.mlos.scripts import rewritten_lines
from windtunnel.config.mlos.search import SearchPath


@pytest.fixture
def search(tmp_path: Path) -> SearchPath:
    """A search path with two scripts in the current folder and one in another."""
    here, other = tmp_path / "here", tmp_path / "other place"
    for path in (here / "bin/run.sh", here / "bin/tool.py", other / "far.sh"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    return SearchPath([str(other)], here, here)


def rewritten(line: str, search: SearchPath) -> str:
    return rewritten_lines([line], search)[0]


@pytest.mark.parametrize(
    "line",
    [
        "echo 'a   b' \"c  d\"",
        "printf '%s|' 'x y' z > out.txt 2>&1",
        "python3 -c 'print(1); print(2)'",
        "echo bin/run.sh",
        "cat < bin/run.sh",
        "X=1 make -j4 && ls | sort",
        "$mountPoint/setup.sh arg",
        'echo "$(date)" # bin/run.sh',
        "for f in a b; do echo $f; done",
        "",
    ],
)
def test_a_line_without_a_script_stays_as_it_was_written(line: str, search: SearchPath) -> None:
    assert rewritten(line, search) == line


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("bin/run.sh a 'b c'", "\"$config_dir\"/bin/run.sh a 'b c'"),
        ("bin/tool.py --n 3", '"$WINDTUNNEL_PYTHON" "$config_dir"/bin/tool.py --n 3'),
        ("'bin/run.sh'", '"$config_dir"/bin/run.sh'),
        ("true && bin/run.sh | cat", 'true && "$config_dir"/bin/run.sh | cat'),
        ("X=1 bin/run.sh", 'X=1 "$config_dir"/bin/run.sh'),
        ("if a; then bin/run.sh; fi", 'if a; then "$config_dir"/bin/run.sh; fi'),
        (">log bin/run.sh", '>log "$config_dir"/bin/run.sh'),
        ("echo $(bin/run.sh)", 'echo $("$config_dir"/bin/run.sh)'),
    ],
)  # fmt: skip
def test_commands_that_are_files_are_found(line: str, expected: str, search: SearchPath) -> None:
    assert rewritten(line, search) == expected


def test_a_script_elsewhere_is_named_with_its_whole_path(search: SearchPath, tmp_path: Path) -> None:
    assert rewritten("far.sh", search) == f"'{tmp_path}/other place/far.sh'"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("cd build", "(cd build)"),
        ("X=1", "(X=1)"),
        ("make; exit 0", "(make; exit 0)"),
        ("export A=b # why", "(export A=b # why\n)"),
        ("echo a \\", "echo a \\"),
    ],
)
def test_a_line_that_changes_the_shell_has_one_of_its_own(
    line: str, expected: str, search: SearchPath
) -> None:
    assert rewritten(line, search) == expected


def test_lines_go_on_where_the_service_says_so(search: SearchPath) -> None:
    assert rewritten_lines(["false", "bin/run.sh"], search, goes_on=True) == [
        "{ false\n} || :",
        '"$config_dir"/bin/run.sh',
    ]
