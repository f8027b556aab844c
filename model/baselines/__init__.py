"""What a foundation model must beat: simple methods under the same splits. The list is in `methods.py`."""
