"""`python -m DiffuGTSLib` is the command `diffugts`."""

from DiffuGTSLib.cli import main

main()
