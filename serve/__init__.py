"""Entry points of the server for Ray Serve: `serve run serve.app:app`, and `serve deploy serve/config.yaml`."""
