"""Model vendors behind one port. Start at ``port.py``; ``catalog.py`` says who serves a model.

Importing this package imports no vendor SDK: they are loaded when the first call is made, or by ``Catalog.warm``.
"""

from perdure.providers.catalog import Catalog, Dialect, EndpointConfig, build_catalog
from perdure.providers.pricing import PriceConfig

__all__ = ["Catalog", "Dialect", "EndpointConfig", "PriceConfig", "build_catalog"]
