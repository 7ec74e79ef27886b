"""The command line: `wicketgate [--home DIR] COMMAND`. Thin: every act is the desk's, the gate's, the store's or the recorder's."""

from broker.cli.program import main as main
