"""Today's calls of the account: every one of them, or an error. Numbers are shown masked.

python examples/call_list.py
"""

import datetime
import sys

from voice_runtime import RestError, mask_number
from voice_runtime.transports.twilio_call_list import list_calls


def main() -> None:
    midnight = datetime.datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
    try:
        calls = list_calls(started_after=midnight)
    except RestError as error:
        sys.exit(f"No list, rather than a part of it: {error}")
    for call in calls:
        line = f"{mask_number(call.from_)} to {mask_number(call.to)}: {call.status}, {call.duration_s or 0} s"
        print(f"{call.started_at:%H:%M} UTC, {call.direction}, {line}")
    print(f"{len(calls)} calls since midnight")


if __name__ == "__main__":
    main()
