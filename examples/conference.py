"""Meet in a conference: the caller waits there for an agent, and is asked how it was afterwards.

python examples/conference.py +358401234567
"""

import sys

from voice_runtime import VoiceServer, VoiceSession


class Advice(VoiceSession):
    agent = ""

    def run(self) -> str:
        self.say("I call an adviser. One moment.")
        # Over when the agent leaves, or does not come; others may be in the same room (room=).
        meeting = self.conference(invite=self.agent, announce="A caller wants advice.", timeout=20)
        if not meeting:
            self.say("Nobody is free. We call you back.")
            return f"no agent: {meeting.outcome}"
        answer = self.ask("Was that helpful?", expect=["yes", "no"], attempts=1)
        self.say("Thank you. Goodbye!")
        return f"{meeting.duration_s} seconds, helpful: {answer.choice}"


if __name__ == "__main__":
    Advice.agent = sys.argv[1]
    VoiceServer(Advice, stt="pocketsphinx", tts="espeak").run()
