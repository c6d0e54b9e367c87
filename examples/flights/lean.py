"""The flights with a third of their features, for `make simulate`: there every schedule folds every event many
times, and it is the loop that is tried, not the features."""

import msgspec
import pipeline as full

late = msgspec.structs.replace(
    full.late,
    features=[
        *(full.flight.distance, full.flight.local_hour, full.weekday),
        *(full.carrier_late, full.carrier_lately["2d"], full.origin_late, full.dest_late_6h),
        *(full.origin_delay["2h"], full.origin_delay["6h"], full.left_2h, full.plane_delay, full.plane_age),
        *(full.temp, full.wind, full.rain, full.visibility, full.pressure),
    ],
)
