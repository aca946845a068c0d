"""Configuration: what the operator wrote, checked as a whole and turned into `records.Settings`.

Only this room imports pydantic, and only the command line and a reload import this room: a worker starts from records.
"""
