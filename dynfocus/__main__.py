"""`python -m dynfocus` is the `dynfocus` command."""

from dynfocus.cli import main

main()
