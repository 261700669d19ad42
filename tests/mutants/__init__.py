"""Small wrong changes to the code, each of which a test must notice: `python -m tests.mutants`."""
