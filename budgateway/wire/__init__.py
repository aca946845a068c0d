"""HTTP/1.1's vocabulary: status lines, error bodies, events. No I/O."""
