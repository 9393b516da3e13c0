"""Call a company from a script, get through its menu by keys, and say something to who answers.

    python examples/extension.py +358401234567 "1w12#"

A "w" in the keys waits half a second.
"""

import sys

from voice_runtime import CallNotAnsweredError, VoiceServer, VoiceSession


class Errand(VoiceSession):
    keys = ""

    def run(self) -> str:
        self.sleep(2)  # let the menu begin; most take keys while they still speak
        self.send_digits(self.keys)  # the flow goes on when the last key was sent
        answer = self.ask("Hello! Is the blue bicycle ready?", expect=["yes", "no"])
        self.say("Thank you. Goodbye!")
        return answer.choice or "nobody said yes or no"


def main(number: str, keys: str) -> None:
    Errand.keys = keys
    with VoiceServer(Errand, stt="pocketsphinx", tts="espeak").running() as server:
        call = server.dial(number)
        try:
            call.wait_answered()
        except CallNotAnsweredError as error:
            print(error)
            return
        call.wait()
        print("Ready?", call.result)


if __name__ == "__main__":
    main(*sys.argv[1:])
