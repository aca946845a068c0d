"""budgateway: a gateway for model inference."""
