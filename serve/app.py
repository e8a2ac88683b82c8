"""The Serve application: `serve run serve.app:app`, with settings as `name=value` (see `imagefoundry serve --help`)."""

from typing import Any

from ray.serve import Application

from engine.serving.entry import application


def app(settings: dict[str, Any]) -> Application:
    """The application with these settings of `ServeConfig`; the others keep their defaults."""
    return application(settings)
