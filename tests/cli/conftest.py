from tests.cli.cli_host import host

__all__ = ["host"]
