"""Put a caller through to a colleague, tell the colleague who it is, and go on with the caller afterwards.

python examples/transfer.py +358401234567
"""

import sys

from voice_runtime import DialOutcome, VoiceServer, VoiceSession


class FrontDesk(VoiceSession):
    colleague = ""

    def run(self) -> str:
        self.say("I put you through to Anna.")
        result = self.transfer(self.colleague, announce="A caller from the front desk.", timeout=20)
        if result.outcome is DialOutcome.ANSWERED:  # and Anna has hung up since
            answer = self.ask("Could she help you?", expect=["yes", "no"], attempts=1)
            self.say("Thank you. Goodbye!")
            return f"talked for {result.duration_s} seconds, helped: {answer.choice}"
        if result.outcome is DialOutcome.BUSY:
            self.say("She is on the telephone. Please try again in ten minutes.")
        else:
            self.say("She does not answer. I let her know that you called.")
            self.send_sms(f"Please call back {self.caller_number}.", to=self.colleague)
        return result.outcome


if __name__ == "__main__":
    FrontDesk.colleague = sys.argv[1]
    VoiceServer(FrontDesk, stt="pocketsphinx", tts="espeak").run()
