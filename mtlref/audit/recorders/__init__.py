"""The scripts that recorded the package's training logs. Each runs as `python -m mtlref.audit.recorders.NAME`."""
