"""Which version is played."""

from tests.trtllm_fake.stage import current

__version__ = current().shape.version
