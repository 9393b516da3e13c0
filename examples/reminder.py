"""A small campaign: one number after the other, under rules that no call gets around.

    python examples/reminder.py +358401234567 +358407654321 ...

Who must not be called stands in do-not-call.txt, one number a line.
"""

import sys

from voice_runtime import (
    CallNotAnsweredError,
    CallPolicy,
    DoNotCallFile,
    InvalidNumberError,
    PolicyError,
    VoiceServer,
    VoiceSession,
    mask_number,
)


class Reminder(VoiceSession):
    def run(self) -> str | None:
        return self.ask("The dentist expects you tomorrow. Will you come?", expect=["yes", "no"]).choice


def remind(server: VoiceServer, number: str) -> str:
    try:
        call = server.dial(number, timeout=25)
        call.wait_answered()
    except (PolicyError, InvalidNumberError) as error:
        return f"not called: {error.rule}"
    except CallNotAnsweredError as error:
        return f"not reached: {error.outcome}"
    call.wait()
    return f"comes: {call.result}"


def main(numbers: list[str]) -> None:
    rules = CallPolicy(allowed_countries={"FI"}, do_not_call=DoNotCallFile("do-not-call.txt"), calls_per_day=200)
    with VoiceServer(Reminder, stt="pocketsphinx", tts="espeak", policy=rules).running() as server:
        for number in numbers:
            print(mask_number(number), remind(server, number), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
