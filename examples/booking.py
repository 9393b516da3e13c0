"""Confirm a table: ask, understand yes or no, send a text message.

    pip install 'voice-runtime[local]'
    VOICE_STREAM_URL=wss://voice.example.com TWILIO_ACCOUNT_SID=AC... TWILIO_AUTH_TOKEN=... \\
    TWILIO_PHONE_NUMBER=+1... python examples/booking.py

and let your Twilio number's voice webhook be https://voice.example.com/voice (POST).
"""

from voice_runtime import VoiceServer, VoiceSession


class Booking(VoiceSession):
    def run(self) -> str:
        answer = self.ask("Your table is booked for eight. Shall I confirm it?", expect=["yes", "no"])
        if answer.choice == "yes":
            self.send_sms("Confirmed. See you at eight!")
            self.say("Thank you, I have sent you a message. Goodbye!")
            return "confirmed"
        if answer.choice == "no":
            self.say("No problem, I have cancelled it. Goodbye!")
            return "cancelled"
        self.say("I am sorry, I did not understand. Please call again. Goodbye!")
        return "not understood"


if __name__ == "__main__":
    VoiceServer(Booking, stt="pocketsphinx", tts="espeak").run()
