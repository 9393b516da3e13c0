"""Place a call from a script and use its result.

python examples/call_and_ask.py +358401234567
"""

import sys

from voice_runtime import CallNotAnsweredError, VoiceServer, VoiceSession


class Survey(VoiceSession):
    def run(self) -> str | None:
        return self.ask("Are you happy with our service?", expect=["yes", "no"]).choice


def main(number: str) -> None:
    with VoiceServer(Survey, stt="pocketsphinx", tts="espeak").running() as server:
        call = server.dial(number)
        try:
            call.wait_answered()
        except CallNotAnsweredError as error:
            print(error)
            return
        call.wait()
        print("Answer:", call.result)
        for line in call.transcript:
            print(f"{line.speaker}: {line.text}")


if __name__ == "__main__":
    main(sys.argv[1])
