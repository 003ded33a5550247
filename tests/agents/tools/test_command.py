from __future__ import annotations

from pathlib import Path

import pytest

from modelworks.agents.sandbox.probe import probe
from modelworks.agents.tools.command import CommandError, command
from modelworks.core.errors import ConfigError

pytestmark = pytest.mark.skipif(probe().kind != "bubblewrap", reason="needs bubblewrap")


def test_a_program_runs_in_the_workspace(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("b\na\n")
    tool = command(tmp_path)
    assert "grep, head" in tool.description
    assert tool.run(argv=["sort", "a.txt"]).content == "a\nb"
    assert tool.run(argv=["tr", "a-z", "A-Z"], input="given").content == "GIVEN"
    assert tool.run(argv=["cp", "a.txt", "b.txt"]).content == "(no output)"
    assert (tmp_path / "b.txt").read_text() == "b\na\n"
    assert "[ended with status 2]" in tool.run(argv=["grep", "x", "none"]).content


def test_there_is_no_shell(tmp_path: Path) -> None:
    assert "cannot access '; rm" in command(tmp_path).run(argv=["ls", "; rm -rf . | cat > x $(id) *"]).content


@pytest.mark.parametrize("argv", [[], ["bash"], ["/bin/cat"], ["../bin/cat"], [""]])
def test_other_programs_are_not_run(tmp_path: Path, argv: list[str]) -> None:
    with pytest.raises(CommandError, match="not a program that is allowed; there are cat, "):
        command(tmp_path).run(argv=argv)


def test_without_write_the_workspace_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    tool = command(tmp_path, write=False)
    assert tool.effects == {"reads"}
    assert "Read-only" in tool.run(argv=["rm", "a"]).content
    assert (tmp_path / "a").exists()


def test_programs_that_are_not_there_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none of the programs"):
        command(tmp_path, programs=["no-such-program", "/bin/cat"])
