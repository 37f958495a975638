"""`python -m facefoundry` is `facefoundry`."""

from facefoundry.cli import main

main()
