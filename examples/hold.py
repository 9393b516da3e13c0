"""Music while something is looked up: the caller waits, the flow computes.

python examples/hold.py [music.wav]
"""

import sys
import time

from voice_runtime import VoiceServer, VoiceSession


def look_up(order: str) -> str:
    time.sleep(4)  # your slow database
    return f"Order {order} leaves tomorrow."


class Orders(VoiceSession):
    music: str | None = None  # a soft beep now and then

    def run(self) -> str | None:
        order = self.gather("Please enter your order number, then the hash key.")
        if not order:
            return None
        with self.hold(self.music):
            answer = look_up(" ".join(order.digits))
        self.say(answer)
        return order.digits


if __name__ == "__main__":
    Orders.music = sys.argv[1] if len(sys.argv) > 1 else None
    VoiceServer(Orders, stt="pocketsphinx", tts="espeak").run()
