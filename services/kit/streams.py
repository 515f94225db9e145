"""The names of streams and subjects that services need; the topology itself is `schema.streams`."""

from schema.streams import DEAD, IN, LOG, OUTPUT, REJECTED, TIMER_FILTER, TIMERS, Json

__all__ = ["DEAD", "IN", "LOG", "OUTPUT", "REJECTED", "TIMERS", "TIMER_FILTER", "Json"]
