"""One small file for each stage of the DAG: `python -m stages.<name>`."""
