"""Authentication and authorization: credentials, principals and roles."""
