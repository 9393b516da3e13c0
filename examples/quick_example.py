"""The quick example of voice-runtime 0.1.0 in its order, with one line added that wires ``on_committed``.

python examples/quick_example.py +358401234567
"""

import asyncio
import sys
import threading
import time

import uvicorn
from fastapi import FastAPI

from voice_runtime.config import load
from voice_runtime.session import VoiceSession
from voice_runtime.stt import create_stt
from voice_runtime.transports.twilio_call import initiate_outbound_call
from voice_runtime.transports.twilio_ws import register_voice_websocket
from voice_runtime.tts import create_tts

# 1. Create session and start WebSocket server
session = VoiceSession()
app = FastAPI()
register_voice_websocket(app, session)


def run_server() -> None:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    session.set_loop(loop)
    config = uvicorn.Config(app, host="0.0.0.0", port=load().voice_server_port, log_level="warning")
    loop.run_until_complete(uvicorn.Server(config).serve())


threading.Thread(target=run_server, daemon=True).start()
time.sleep(1)  # wait for server to start

# 2. Initiate call (Twilio calls back to our /voice WebSocket)
call_sid = initiate_outbound_call(sys.argv[1])
session.call_sid = call_sid
session.wait_for_ws_connect(timeout=30)

# 3. Speak
tts = create_tts()  # default: ElevenLabs
tts.speak("Hello! How are you today?", session)
session.send_mark_and_wait("after-greeting")  # block until playback done

# 4. Listen: persistent STT with on_committed callback
transcript_event = threading.Event()
heard: list[str] = []


def on_committed(text: str) -> None:
    heard.append(text)
    transcript_event.set()


session.on_stt_ready = lambda stt: setattr(stt, "on_committed", on_committed)  # the line that was missing
session.stt_factory = lambda: create_stt()  # default: ElevenLabs
# The recogniser starts on the live stream; on_committed fires for each utterance

transcript_event.wait(timeout=30)
print(f"Caller said: {heard}")

# 5. Hang up
session.request_disconnect()
