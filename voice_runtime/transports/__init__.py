"""Wires a call can come over: Twilio Media Streams, its REST API and TwiML, and lines without a carrier."""
