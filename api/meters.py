"""What /metrics shows of this process. One registry per app, so that two apps in one process don't share counts."""

from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)


@dataclass(frozen=True, slots=True)
class Meters:
    """Counters and histograms; routes appear by template, never by path, so that ids make no series."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    requests: Counter = field(init=False)
    request_seconds: Histogram = field(init=False)
    streams: Gauge = field(init=False)
    first_token_seconds: Histogram = field(init=False)
    tokens: Counter = field(init=False)
    jobs: Gauge = field(init=False)
    workers: Gauge = field(init=False)

    def __post_init__(self) -> None:
        """Register each series once."""

        def keep(name: str, meter: Counter | Gauge | Histogram) -> None:
            object.__setattr__(self, name, meter)

        at = self.registry
        keep("requests", Counter("bluelora_requests", "Answers sent.", ["method", "route", "status"], registry=at))
        keep(
            "request_seconds",
            Histogram(
                "bluelora_request_seconds", "Time to the end of an answer.", ["route"], buckets=SECONDS, registry=at
            ),
        )
        keep("streams", Gauge("bluelora_generations_running", "Generations now in flight.", registry=at))
        keep(
            "first_token_seconds",
            Histogram("bluelora_first_token_seconds", "Time to the first token.", buckets=SECONDS, registry=at),
        )
        keep("tokens", Counter("bluelora_tokens", "Tokens read and written.", ["kind"], registry=at))
        keep("jobs", Gauge("bluelora_jobs", "Jobs by stored status.", ["status"], registry=at))
        keep("workers", Gauge("bluelora_workers", "Workers seen lately.", registry=at))
