"""How a call ends: by us, once everything is heard; or by the caller, in the middle of a sentence.

python examples/goodbye.py
"""

from voice_runtime import CallHangupError, VoiceServer, VoiceSession

TERMS = "You may return it within thirty days. Shipping is free. The warranty is two years."


class Terms(VoiceSession):
    def run(self) -> None:
        try:
            self.say(TERMS)
        except CallHangupError as error:
            # Any verb raises it once the call has ended. Tidy up, and let it pass.
            heard = error.partial.heard_text if error.partial else ""
            print(f"{self.call_sid}: {error.reason}, having heard {heard!r}", flush=True)
            raise
        self.say("Goodbye!")
        self.hang_up(after=1)  # a second of silence behind the last word; at the end of run() it would be 0.3
        print(f"{self.call_sid}: {self.ended_reason}, having heard all", flush=True)


if __name__ == "__main__":
    VoiceServer(Terms, stt="pocketsphinx", tts="espeak").run()
