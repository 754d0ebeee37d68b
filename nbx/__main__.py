"""`python -m nbx`."""

from nbx.cli import main

main()
