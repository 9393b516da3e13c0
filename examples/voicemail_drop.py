"""Call somebody, and leave the message on the answering machine should that take the call.

python examples/voicemail_drop.py +358401234567
"""

import sys

from voice_runtime import CallNotAnsweredError, VoiceServer, VoiceSession


class Pickup(VoiceSession):
    def run(self) -> str:
        answer = self.ask("The library here. Your book has come. Will you fetch it today?", expect=["yes", "no"])
        self.say("Thank you. Goodbye!")
        return f"today: {answer.choice}"

    def on_machine(self) -> str:  # takes the place of run(), whatever that is at
        self.leave_message("The library here. Your book has come. Goodbye!")  # waits for the beep
        return "message left"


def main(number: str) -> None:
    with VoiceServer(Pickup, stt="pocketsphinx", tts="espeak").running() as server:
        call = server.dial(number, machine_detection="enable")
        try:
            call.wait_answered()
        except CallNotAnsweredError as error:
            print(error)
            return
        call.wait()
        print(f"{call.outcome}: {call.result}")


if __name__ == "__main__":
    main(sys.argv[1])
