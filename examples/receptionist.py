"""Several flows behind one server: chosen by the number that was called, or by a function that knows the call.

    python examples/receptionist.py +358942450000

The number is that of the shop, one of your Twilio numbers; all the others reach the office.
"""

import sys

from voice_runtime import CallFacts, Refusal, VoiceServer, VoiceSession, busy, reject

CUSTOMERS = {"+358401234567": "Anna"}
BLOCKED = {"+358407654321"}


class Shop(VoiceSession):
    def run(self) -> None:
        self.say("This is the shop. We are open until six.")


class Office(VoiceSession):
    def run(self) -> None:
        name = CUSTOMERS.get(self.caller_number)
        if name and self.facts.attestation == "A":  # the number is really the caller's own
            self.say(f"Welcome back, {name}.")
        elif self.facts.forwarded_from:
            self.say("You called a colleague who is out today.")
        else:
            self.say("This is the office. Who is speaking?")


def office(facts: CallFacts) -> type[VoiceSession] | Refusal:
    if facts.caller in BLOCKED:
        return reject()  # "not in service", and it costs nothing
    if facts.caller == "anonymous":
        return busy()
    return Office


if __name__ == "__main__":
    VoiceServer({sys.argv[1]: Shop, "*": office}, stt="pocketsphinx", tts="espeak").run()
