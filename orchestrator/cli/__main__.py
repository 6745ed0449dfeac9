"""`python -m orchestrator.cli`: what a submitted job runs, since the code that it brings has no script."""

from orchestrator.cli.app import main

main()
