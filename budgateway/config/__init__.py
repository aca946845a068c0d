"""Configuration: reads what the operator wrote, checks it as a whole and turns it into `records.Settings`.

Only this package imports pydantic. The supervisor has a short-lived process read the configuration (`reader.py`); a
worker starts from records.
"""
