from tests.studies.conftest import parts

__all__ = ["parts"]
