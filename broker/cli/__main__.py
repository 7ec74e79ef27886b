"""`python -m broker.cli`: how `serve` starts its children with the very interpreter it runs on."""

from broker.cli import main

main()
