"""Signed tokens (JWS) and the keys that verify them (RFC 7515, 7517, 7518): no I/O, no clock, no claims."""
