"""Have Twilio record a call, all but the card number; afterwards list its recordings and fetch them.

python examples/recording.py +358401234567
"""

import sys
import time
from pathlib import Path

from voice_runtime import VoiceServer, VoiceSession
from voice_runtime.transports.twilio_recording import download_recording, list_recordings


class Payment(VoiceSession):
    def run(self) -> str:
        self.say("This call is recorded.")
        recording = self.start_recording()
        self.say("The bill is twenty euros.")
        recording.pause()  # leaves silence; pause(silence=False) leaves nothing
        card = self.gather("Please enter your card number, then the hash key.", timeout=20)
        recording.resume()
        self.say("Thank you. Goodbye!" if card else "That did not work. Goodbye!")
        recording.stop()
        return f"{len(card.digits)} keys"


def main(number: str) -> None:
    with VoiceServer(Payment, stt="pocketsphinx", tts="espeak").running() as server:
        call = server.dial(number)
        call.wait()
    print(call.outcome, call.result)
    while any(one.status == "processing" for one in list_recordings(call.call_sid)):
        time.sleep(1)
    for one in list_recordings(call.call_sid):
        Path(f"{one.recording_sid}.wav").write_bytes(download_recording(one.recording_sid))
        print(f"{one.recording_sid}.wav: {one.duration_s} s in {one.channels} channels, {one.status}")


if __name__ == "__main__":
    main(sys.argv[1])
