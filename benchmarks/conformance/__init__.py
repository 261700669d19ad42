"""One file of maps, measured by this program and by other libraries (docs/conformance.md)."""
