"""One environment variable sets one thing, whichever services share an environment."""

from collections import Counter

from docs.generators.settings import SERVICES
from services.kit.settings import DatabaseSettings, ServiceSettings, TopologySettings

MEANT_TO_BE_SHARED = {"vcpu_hour_cad", "gib_hour_cad", "storage_gib_hour_cad", "store"}
"""One tariff and one chunk store, whoever reads them."""


def test_what_two_services_mean_differently_bears_the_services_name() -> None:
    of_the_kit = {name for base in (ServiceSettings, TopologySettings, DatabaseSettings) for name in base.model_fields}
    said = Counter(name for model in SERVICES.values() for name in model.model_fields if name not in of_the_kit)
    assert {name for name, services in said.items() if services > 1} == MEANT_TO_BE_SHARED
