"""Let a caller in by a PIN: four keys, three attempts. No key is written to any log.

python examples/pin_entry.py
"""

import hmac

from voice_runtime import VoiceServer, VoiceSession

PINS = {"+358401234567": "4711"}  # in real life a salted hash, in a database


def is_right(caller: str, pin: str) -> bool:
    return hmac.compare_digest(PINS.get(caller, ""), pin)


class Balance(VoiceSession):
    def run(self) -> str:
        for _ in range(3):
            entry = self.gather("Please enter your PIN.", digits=4, timeout=8, attempts=1)
            if entry and is_right(self.caller_number, entry.digits):
                self.say("Thank you. Your balance is twenty euros.")
                return "let in"
            self.say("This PIN is not right.")
            self.clear_inbound()  # a key too many, or a hash from habit, is not the next attempt
        self.say("I cannot let you in. Goodbye.")
        return "refused"


if __name__ == "__main__":
    VoiceServer(Balance, stt="pocketsphinx", tts="espeak").run()
