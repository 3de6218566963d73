"""`python -m authz`: the command line `meshwarden`."""

from authz.cli import main

main()
