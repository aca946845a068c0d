"""The operating system's side of a process: interpreter, signals, log, files, background tasks."""
