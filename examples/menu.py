"""A menu: the caller presses a key or says the word, and is asked again when neither comes.

    python examples/menu.py +358401234567

The number is where calls to the front desk are put through to.
"""

import sys

from voice_runtime import VoiceServer, VoiceSession


class Menu(VoiceSession):
    front_desk = ""

    def run(self) -> str:
        answer = self.gather(
            "For opening hours press one or say hours. For the desk press two or say desk.",
            digits=1,
            speech=["hours", "desk"],
            timeout=4,
            retry_prompt="Sorry? One for hours, two for the desk.",
        )
        if answer.digits == "1" or answer.choice == "hours":
            self.say("We are open from nine to five. Goodbye!")
            return "hours"
        # Whoever pressed something else, or nothing at all, is better off with a person.
        self.say("One moment, please.")
        desk = self.transfer(self.front_desk, timeout=20, on_no_answer="The desk is busy. Please call again later.")
        return f"front desk: {desk.outcome}"


if __name__ == "__main__":
    Menu.front_desk = sys.argv[1]
    VoiceServer(Menu, stt="pocketsphinx", tts="espeak").run()
