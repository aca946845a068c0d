"""The routing stage: route tables, the body's model, request splits, and CORS per route."""
