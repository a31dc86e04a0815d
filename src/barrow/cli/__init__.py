"""The command line: ``barrow distance``, ``estimate``, ``study``, ``data``, ``demo``, ``doctor``. The only printer."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

import barrow
from barrow.cli.complaint import BAD_INPUT, INTERRUPTED, Complaint, Interrupted, one_line
from barrow.cli.data import data
from barrow.cli.doctor import doctor
from barrow.cli.estimation import estimate
from barrow.cli.experiments import demo, study
from barrow.cli.transport import distance
from barrow.studies import MissingExtra

__all__ = ["app", "main"]

app = typer.Typer(name="barrow", add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")

# typer carries its own copy of click, or did not, depending on its version: this is the base of its usage errors.
_UsageError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


@app.callback(invoke_without_command=True)
def barrow_(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    """Optimal-transport distances, each with a proof of how far it can be from the truth."""
    if version:
        print(f"barrow {barrow.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


for command in (distance, estimate, study, data, demo, doctor):
    # typer keeps the line breaks of a docstring, which are those of the source and not of the reader's window.
    paragraphs = (inspect.getdoc(command) or "").split("\n\n")
    app.command(help="\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs))(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; every complaint is one line on standard error."""
    try:
        given = list(sys.argv[1:] if arguments is None else arguments)
        code = app(given, prog_name="barrow", standalone_mode=False)
        sys.stdout.flush()
    except (Complaint, MissingExtra) as error:
        return _complain(one_line(error), BAD_INPUT)
    except Interrupted as error:
        return _complain(one_line(error), INTERRUPTED)
    except _UsageError as error:
        return _complain(f"{one_line(error.format_message())} (barrow --help lists what there is)", BAD_INPUT)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        # Nobody reads on, as in `barrow study | head -1`; Python would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            return _complain("there is not enough memory: take fewer points, or --epsilon", BAD_INPUT)
        raise
    if code == INTERRUPTED:
        return _complain("interrupted", INTERRUPTED)
    return code if isinstance(code, int) else 0


def _complain(message: str, code: int) -> int:
    print(f"barrow: {message}", file=sys.stderr)
    return code
