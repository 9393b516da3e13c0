"""Hear yourself: every frame of the caller goes back, in plain blocking Python.

python examples/echo.py
"""

from voice_runtime import VoiceServer, VoiceSession


class Echo(VoiceSession):
    def run(self) -> None:
        for frame in self.frames():  # 20 ms of μ-law audio each; ends with the call
            self.put_outbound_sync(frame)


if __name__ == "__main__":
    VoiceServer(Echo).run()
