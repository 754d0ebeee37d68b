"""`python -m nbx`: the command line, which a service's own processes do without, as Typer and Rich take their time."""

from __future__ import annotations

import gc
import os
import sys

from nbx.errors import NbxError
from nbx.processes import PROCESSES, run_process
from nbx.settings import load_settings


def main() -> None:
    """Run what the arguments say; errors are told in words and end with their exit code."""
    gc.set_threshold(50_000)  # what is imported is no garbage: most commands are over before there is any
    if sys.argv[1:] not in [[name] for name in PROCESSES]:
        from nbx.cli import main as command_line

        return command_line()
    try:
        sys.exit(run_process(sys.argv[1], load_settings(os.environ)))
    except NbxError as error:
        from nbx.cli import tell

        sys.exit(tell(error))


if __name__ == "__main__":
    main()
