"""The back office: what the gateway answers itself, reached like one more upstream."""
