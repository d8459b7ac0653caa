"""python -m scripts.manta: the command where it is not installed."""

from scripts.manta.main import main

main()
