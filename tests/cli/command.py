"""Runs the command line in this process."""

from typer.testing import CliRunner

from dynfocus.cli import app

QUESTION = "what color is the circle?"


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def assert_refused(result, *complaints):
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("dynfocus: ")
    for complaint in complaints:
        assert complaint in result.stderr
