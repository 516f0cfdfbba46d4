"""`python -m coldstart` is the command `coldstart`."""

from coldstart.cli import main

main()
