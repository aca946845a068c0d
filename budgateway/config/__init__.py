"""Configuration: what the operator wrote, checked as a whole and turned into `records.Settings`.

Only this room imports pydantic. The supervisor has it read by a process that ends (`reader.py`); a worker starts from records.
"""
