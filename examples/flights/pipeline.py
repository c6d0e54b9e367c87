"""Will this flight land more than 15 minutes late? Asked at the scheduled departure, from what is known then."""

from datetime import datetime

from sklearn.ensemble import HistGradientBoostingClassifier

from penstock import (
    Data,
    Event,
    Pipeline,
    better,
    count,
    every,
    feature,
    key,
    last,
    loss,
    mean,
    missing,
    rate,
    source,
    steps,
)

# What happens, as it becomes known.


class Flight(Event):
    flight_id: str
    tailnum: str | None = key()
    at: datetime
    carrier: str
    number: int
    origin: str
    dest: str
    distance: int
    local_hour: int


class Departure(Event):
    flight_id: str
    tailnum: str | None = key()
    at: datetime
    carrier: str
    origin: str
    dep_delay: float


class Landing(Event):
    flight_id: str = key()
    at: datetime
    carrier: str
    origin: str
    dest: str
    arr_delay: float
    late: bool


class Weather(Event):
    origin: str = key()
    at: datetime
    temp: float | None
    wind_speed: float | None
    precip: float | None
    visib: float | None
    pressure: float | None


class Plane(Event):
    tailnum: str = key()
    year: int | None
    seats: int


flight = source(Flight, id="flight_id", time="at")
departure = source(Departure, id="flight_id", time="at")
landing = source(Landing, id="flight_id", time="at")
weather = source(Weather)
plane = source(Plane, id="tailnum")

# What is known of a flight at its scheduled departure.

carrier_late = mean(landing.late, entity="carrier")
carrier_late_2d = mean(landing.late, entity="carrier", window="2d")
dest_late = mean(landing.late, entity="dest")
origin_late = mean(landing.late, entity="origin")
dest_late_6h = mean(landing.late, entity="dest", window="6h")
origin_delay_2h = mean(departure.dep_delay, entity="origin", window="2h")
origin_delay_6h = mean(departure.dep_delay, entity="origin", window="6h")
origin_departures_2h = count(departure, entity="origin", window="2h")
plane_delay = last(departure.dep_delay, max_age="12h")
temp = last(weather.temp, max_age="3h")
wind = last(weather.wind_speed, max_age="3h")
rain = last(weather.precip, max_age="3h")
visibility = last(weather.visib, max_age="3h")
pressure = last(weather.pressure, max_age="3h")
built = last(plane.year)


@feature
def weekday(at: datetime) -> int:
    return at.weekday()


@feature
def plane_age(at: datetime, built: int | None) -> int | None:
    return at.year - built if built else None


def fit(data: Data):
    return HistGradientBoostingClassifier(**data.params, random_state=data.seed).fit(data.x, data.y)


late = Pipeline(
    request=flight,
    label=landing.late,
    wait="2d",
    features=[
        flight.distance,
        flight.local_hour,
        weekday,
        carrier_late,
        dest_late,
        origin_late,
        carrier_late_2d,
        dest_late_6h,
        origin_delay_2h,
        origin_delay_6h,
        origin_departures_2h,
        plane_delay,
        plane_age,
        temp,
        wind,
        rain,
        visibility,
        pressure,
    ],
    fit=fit,
    params={"max_iter": 60, "max_leaf_nodes": 15, "learning_rate": 0.1},
    train=every("35d", window="180d", at_least=4000),
    gate=better("log_loss", slices=["origin"], p99="250ms"),
    release=steps(shadow="2d", canary=(10, 50), hold="2d", guard="7d", flips=0.25),
    watch=[
        missing("tailnum") < 0.05,
        rate("positive", "1d") < 0.5,
        loss("7d") < 0.6,
    ],
    threshold=0.4,
)
