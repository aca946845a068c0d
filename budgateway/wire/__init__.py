"""HTTP/1.1 messages: error responses, events, forms, CORS, handshakes. No I/O."""
