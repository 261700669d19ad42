"""Speed against peers and against the limit of the machine; run by hand, `python -m benchmarks`."""
