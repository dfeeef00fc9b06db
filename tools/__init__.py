"""The machinery around specs and implementations; `python -m tools --help`."""
